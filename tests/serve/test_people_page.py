"""The page for people: its routes, and the page itself in a browser at two widths."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import jsonschema
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import sidkit
from helpers.browser import Page, chromium
from helpers.builders import FinishedJob, copy_of, reseal
from helpers.http_service import Service, running
from sidkit.core.errors import ConfigError
from sidkit.core.repo import Repo
from sidkit.serve.people import Users, is_picture, picture_column
from sidkit.tables import read_log

TOKEN = "page-token-0123456789"
SCRIPT = "<script>window.broken = 1</script>"
IMAGE = "<img src=x onerror='window.broken = 1'> & Söhne"
HOST = "https://pictures.example"
PIXEL = "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg=="


@pytest.fixture(scope="module")
def shop(finished: FinishedJob, tmp_path_factory: pytest.TempPathFactory) -> Repo:
    """A repository whose titles are markup, and whose pictures are embedded, elsewhere, or none that may be shown."""
    repo = copy_of(finished.repo, tmp_path_factory.mktemp("page") / "shop")
    path = read_log(repo).items
    table = pq.read_table(path)
    ids = table.column("item_id").to_pylist()
    pictures = [[PIXEL, f"{HOST}/{name}.png", "javascript:alert(1)"][at % 3] for at, name in enumerate(ids)]
    titles = pa.array([[SCRIPT, IMAGE][at % 2] + f" {name}" for at, name in enumerate(ids)])
    table = table.set_column(table.column_names.index("title"), "title", titles)
    pq.write_table(table.append_column("image_url", pa.array(pictures)), path)
    reseal(path)
    sidkit.open(repo.path).materialize()
    return repo


@pytest.fixture(scope="module")
def service(shop: Repo, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    token = tmp_path_factory.mktemp("token") / "token"
    token.write_text(TOKEN)
    token.chmod(0o600)
    with running(shop.path, "--token-file", token) as started:
        started.headers = {"Authorization": f"Bearer {TOKEN}"}
        yield started


def someone(repo: Repo) -> tuple[str, list[str]]:
    """The user with the longest history, and its items, from the feature table."""
    table = pq.read_table(repo.tables / "user_history.parquet")
    longest = int(np.argmax(pc.list_value_length(table.column("item_ids")).to_numpy()))
    user = table.column("user_id")[longest].as_py()
    of_user = table.filter(pc.equal(table.column("user_id"), user)).sort_by("event_timestamp")
    return user, of_user.column("item_ids")[-1].as_py()


def test_users_are_suggested_by_prefix(service: Service, shop: Repo) -> None:
    users = service.call("GET", "/v1/users?prefix=u1&limit=100").json["users"]
    known = pq.read_table(shop.tables / "user_stats.parquet").column("user_id").unique().to_pylist()
    assert {each["user_id"] for each in users} == {name for name in known if name.startswith("u1")}
    assert users[0]["user_id"] == "u1"  # typed in full
    clicks = [each["clicks"] for each in users[1:]]
    assert clicks == sorted(clicks, reverse=True)
    assert service.call("GET", "/v1/users?prefix=nobody").json == {"prefix": "nobody", "users": []}
    assert service.call("GET", "/v1/users?limit=0").status == 422
    assert service.call("GET", f"/v1/users?prefix={'u' * 1100}").status == 422


@settings(max_examples=50)
@given(st.lists(st.text(st.characters(codec="utf-8"), min_size=1, max_size=4), unique=True), st.text(max_size=2))
def test_a_prefix_finds_exactly_the_users_that_start_with_it(names: list[str], prefix: str) -> None:
    names.sort()
    users = Users(pa.array(names, pa.large_string()), np.arange(len(names)))
    found = users.starting_with(prefix, 100)
    assert {each.user_id for each in found} == {name for name in names if name.startswith(prefix)}
    assert len(found) == len({each.user_id for each in found})


def test_the_history_is_that_of_the_online_store(service: Service, shop: Repo) -> None:
    user, expected = someone(shop)
    answer = service.call("GET", f"/v1/users/{user}/history?limit=1000").json
    assert [each["item"]["item_id"] for each in answer["items"]] == expected and answer["user_known"]
    times = [each["at"] for each in answer["items"]]
    assert times == sorted(times, reverse=True)
    assert len(service.call("GET", f"/v1/users/{user}/history?limit=2").json["items"]) == 2
    nobody = service.call("GET", "/v1/users/no%2Fbody%3F/history").json
    assert nobody == {"user_id": "no/body?", "user_known": False, "length": 0, "items": []}


def test_items_are_described_with_titles_codes_and_pictures(service: Service, shop: Repo) -> None:
    ids = pq.read_table(read_log(shop).items).column("item_id").to_pylist()[:3]
    answer = service.call("POST", "/v1/describe", {"item_ids": [*ids, "nothing"]}).json["items"]
    codes = service.call("POST", "/v1/codes", {"item_ids": ids}).json["items"]
    assert [each["codes"] for each in answer[:3]] == [each["codes"] for each in codes]
    assert [each.get("picture") for each in answer[:3]] == [PIXEL, f"{HOST}/{ids[1]}.png", None]
    assert answer[0]["title"] == f"{SCRIPT} {ids[0]}" and answer[3] == {"item_id": "nothing", "unknown": True}
    assert service.call("POST", "/v1/describe", {"item_ids": []}).status == 422


def test_the_answers_are_as_described(service: Service, shop: Repo) -> None:
    document = service.call("GET", "/openapi.json").json
    user, _ = someone(shop)
    asked: dict[str, tuple[str, str, Any]] = {
        "/v1/about": ("get", "/v1/about", None),
        "/v1/users": ("get", "/v1/users", None),
        "/v1/users/{user_id}/history": ("get", f"/v1/users/{user}/history", None),
        "/v1/describe": ("post", "/v1/describe", {"item_ids": ["i1"]}),
    }
    for path, (method, address, body) in asked.items():
        content = document["paths"][path][method]["responses"]["200"]["content"]["application/json"]
        answer = service.call(method.upper(), address, body).json
        for value in (answer, content.get("example", answer)):
            jsonschema.validate(value, {**content["schema"], "components": document["components"]})
    about = service.call("GET", "/v1/about").json
    assert about["pictures"] == "image_url" and about["titles"] and about["users"] > 100


def test_only_files_are_open_without_the_token(service: Service) -> None:
    for path in ("/", "/page/app.js", "/page/render.js", "/page/style.css"):
        answer = service.call("GET", path, authorization="")
        assert answer.status == 200
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy and "https:" not in policy and "unsafe" not in policy
    for path in ("/v1/about", "/v1/users", "/v1/users/u1/history", "/v1/describe"):
        method = "POST" if path.endswith("describe") else "GET"
        assert service.call(method, path, authorization="").status == 401


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        (f"{HOST}/a.png?b=1", True), (PIXEL, True), ("http://pictures.example/a.png", False), ("javascript:alert(1)", False),
        ("data:text/html,<script>", False), ("//pictures.example/a", False), (f"{HOST}/a b", False), (f'{HOST}/"x', False),
    ],
)  # fmt: skip
def test_pictures_are_https_or_embedded(address: str, shown: bool) -> None:
    assert is_picture(address) is shown


def test_the_column_of_pictures_is_named_or_guessed(shop: Repo, finished: FinishedJob) -> None:
    assert picture_column(shop, None) == "image_url" and picture_column(shop, "title") == "title"
    assert picture_column(shop, "off") is None and picture_column(finished.repo, None) is None
    with pytest.raises(ConfigError, match="--pictures: expected a text column of the items .*title") as refused:
        picture_column(shop, "price")
    assert picture_column(shop, str(refused.value).partition("items (")[2].partition(",")[0]) == "category"


@pytest.fixture(scope="module")
def browser(service: Service, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    chromium()
    page = Page(f"{service.url}/", tmp_path_factory.mktemp("browser") / "profile")
    yield page
    page.close()


def until(page: Page, condition: str) -> None:
    """Wait until a condition of the page holds; the page's own message shows why it does not."""
    met = page.do(
        f"new Promise(done => {{ let tries = 0; const look = () => ({condition}) ? done(true) : "
        "tries++ > 600 ? done(false) : setTimeout(look, 50); look(); })"
    )
    assert met, (condition, page.do("document.body.innerText"))


def sign_in(page: Page, token: str) -> None:
    until(page, "!document.getElementById('signin').hidden")
    page.do("document.getElementById('token').value = ''; document.getElementById('token').focus()")
    page.call("Input.insertText", text=token)
    page.press("Enter")


def rank_of(page: Page, user: str) -> None:
    """Choose a user with the keyboard alone."""
    until(page, "!document.getElementById('main').hidden && document.activeElement.id === 'user'")
    page.do("document.getElementById('list').replaceChildren(); document.getElementById('user').select()")
    page.call("Input.insertText", text=user)
    until(page, f"document.querySelector('[role=option]')?.dataset.user === '{user}'")
    page.press("ArrowDown")
    until(page, "document.getElementById('user').getAttribute('aria-activedescendant') === 'user-0'")
    page.press("Enter")
    until(page, "document.querySelectorAll('.item').length > 0")


def requested(page: Page) -> list[str]:
    return [event["params"]["request"]["url"] for event in page.events_of("Network.requestWillBeSent")]


def test_a_person_sees_history_and_ranking_with_the_keyboard_alone(service: Service, shop: Repo, browser: Page) -> None:
    user, history = someone(shop)
    browser.open(f"{service.url}/")
    sign_in(browser, "not-the-token-0123")
    until(browser, "document.getElementById('signin-problem').textContent.includes('refused')")
    sign_in(browser, TOKEN)
    rank_of(browser, user)
    assert not browser.do("document.getElementById('suggestions').checkVisibility()")

    # The list is that of the service, with titles as text.
    at = service.call("GET", "/v1/about").json["features_until"]
    popular = {"by": "popular", "window": "30d", "limit": 300}
    answer = service.rank(user_id=user, retrieve=popular, k=100, explain=True, at=at).json
    shown = browser.do("[...document.querySelectorAll('.item')].map(each => each.dataset.id)")
    assert shown == [each["item_id"] for each in answer["items"]][:20]
    titles = browser.do("[...document.querySelectorAll('.item .title')].map(each => each.textContent)")
    assert titles == [each["title"] for each in answer["items"]][:20] and "<script>" in "".join(titles)
    assert browser.do("window.broken === undefined && document.querySelectorAll('.title *').length === 0")
    assert browser.do("document.querySelectorAll('.item .codes button').length > 20")
    cold = [each["item_id"] for each in answer["items"][:20] if each.get("cold")]
    assert browser.do("[...document.querySelectorAll('.flag.cold')].map(each => each.closest('li').dataset.id)") == cold
    past = browser.do("[...document.querySelectorAll('.event .facts')].map(each => each.textContent.split(' ')[0])")
    assert past == history[: len(past)] and past

    # The largest changes of the logit are drawn, on one scale and with their sign.
    first = answer["items"][0]["explanation"]
    largest = sorted(first, key=lambda group: -abs(first[group]))[:4]
    drawn = browser.do("[...document.querySelectorAll('.item:first-child dt')].map(each => each.title)")
    assert {abs(first[group]) for group in drawn} == {abs(first[group]) for group in largest}
    widths = browser.do("[...document.querySelectorAll('.bar')].map(each => parseFloat(each.style.width))")
    assert 0 < max(widths) <= 50
    signs = browser.do("[...document.querySelectorAll('.item:first-child .bar')].map(each => each.classList[1])")
    assert signs == ["less" if first[group] < 0 else "more" for group in drawn]

    for width in (1280, 400):
        browser.call("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
        assert browser.do("document.documentElement.scrollWidth") <= width
        cut = (
            "[...document.querySelectorAll('main *')].filter(each => each.checkVisibility() && "
            "each.getBoundingClientRect().right > document.documentElement.clientWidth + 1).length"
        )
        assert browser.do(cut) == 0, width

    # A code leads to the items that share it.
    browser.do("document.querySelector('.item .codes button').focus()")
    browser.press("Enter")
    until(browser, "document.getElementById('by').value === 'prefix' && document.activeElement.id === 'ranking'")
    codes = browser.do("[...document.querySelectorAll('.item')].map(each => each.querySelector('.code').textContent)")
    assert len(set(codes)) == 1

    # The detail of a refusal is shown.
    browser.do("document.getElementById('codes').value = '1 2 3 4 5 6'; document.getElementById('ask').requestSubmit()")
    until(browser, "document.getElementById('problem').textContent.startsWith('expected 1 to')")

    addresses = requested(browser)
    assert all(TOKEN not in address for address in addresses)
    assert all(address.startswith((service.url, "data:")) for address in addresses), addresses
    refused = [each for each in browser.events_of("Log.entryAdded") if "Content Security" in str(each)]
    assert not refused and not browser.events_of("Runtime.exceptionThrown")


def test_pictures_of_other_hosts_need_permission(service: Service, shop: Repo, browser: Page) -> None:
    user, _ = someone(shop)
    browser.open(f"{service.url}/")
    if browser.do("sessionStorage.getItem('sidkit-token') === null"):
        sign_in(browser, TOKEN)
    rank_of(browser, user)
    assert browser.do("[...document.images].every(each => each.src.startsWith('data:'))")
    assert {urlsplit(each).netloc for each in requested(browser) if not each.startswith("data:")} == {
        urlsplit(service.url).netloc
    }
    browser.events.clear()
    browser.do("document.getElementById('pictures').click()")
    browser.loaded()
    assert browser.do("location.search") == "?pictures=on"
    rank_of(browser, user)
    until(browser, "document.querySelectorAll('.item').length > 0")
    for _ in range(100):
        if any(each.startswith(HOST) for each in requested(browser)):
            break
        browser.do("document.querySelectorAll('img').forEach(each => each.scrollIntoView())")
    assert any(each.startswith(HOST) for each in requested(browser))
    # A picture that does not load leaves the mark.
    until(browser, "[...document.querySelectorAll('.item .mark')].every(each => each.tagName === 'SPAN' || each.src)")
    assert all(TOKEN not in address for address in requested(browser))
