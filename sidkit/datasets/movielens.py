"""MovieLens 1M (``.dat``), and MovieLens 20M, 25M, 32M and latest (``.csv``)."""

from __future__ import annotations

from typing import ClassVar

from sidkit.core.config import Feedback
from sidkit.datasets.published import PublishedDataset
from sidkit.datasets.raw_files import delimited, found, split_lines

_OCCUPATIONS = (
    "other", "academic/educator", "artist", "clerical/admin", "college/grad student", "customer service",
    "doctor/health care", "executive/managerial", "farmer", "homemaker", "K-12 student", "lawyer", "programmer", "retired",
    "sales/marketing", "scientist", "self-employed", "technician/engineer", "tradesman/craftsman", "unemployed", "writer",
)  # fmt: skip
"""Names of the occupation codes 0 to 20, from the README of MovieLens 1M."""


class MovieLens(PublishedDataset):
    """Movie ratings of GroupLens: ``movielens:PATH``.

    PATH holds ``ratings.dat``, ``movies.dat`` and ``users.dat`` (1M: values separated by ``::``, Latin-1), or ``ratings.csv``
    and ``movies.csv`` (20M, 25M, 32M, latest; UTF-8). Times are seconds since 1970, UTC.

    - ``label``: 1 for a rating of 4 or more, else 0; ``rating`` has the value. Users rated what they chose to rate, so a 0 is
      a low rating and not an impression without a click.
    - ``created_at``: the first rating of the movie; when it was listed is not published.
    - Items: ``title``, ``genres`` (list), ``release_year``, and ``text`` (title and genres) for embedding.
    - ``users`` (1M only): ``gender``, ``age_from`` (lower bound of the age group, years), ``occupation``, ``zip_code``.
    - Left out: movies without a rating; tags, which are published later than many ratings.

    Terms: the usage licence in the README of each data set (research; no commercial use without permission). Citation:
    F. M. Harper and J. A. Konstan, "The MovieLens Datasets: History and Context", ACM TiiS 5(4), 2015.
    """

    name: ClassVar[str] = "movielens"
    feedback: Feedback = "impressions"

    @property
    def _is_1m(self) -> bool:
        return (self.folder / "ratings.dat").is_file()

    def interactions(self) -> str:
        """See :meth:`PublishedDataset.interactions`."""
        if self._is_1m:
            ratings = split_lines(
                self.folder / "ratings.dat", ("userId", "movieId", "rating", "timestamp"), "::", "latin-1"
            )
        else:
            files = found(self.folder, ("ratings.csv", "ratings.csv.gz"), "interactions", "ratings.dat or ratings.csv")
            ratings = delimited(files, ("userId", "movieId", "rating", "timestamp"), "interactions")
        return f"""
            SELECT userId AS user_id, movieId AS item_id,
                   make_timestamptz(TRY_CAST(timestamp AS BIGINT) * 1000000) AS timestamp,
                   (TRY_CAST(rating AS FLOAT) >= 4)::TINYINT AS label, TRY_CAST(rating AS FLOAT) AS rating
            FROM ({ratings})"""

    def items(self) -> str:
        """See :meth:`PublishedDataset.items`."""
        if self._is_1m:
            (file,) = found(self.folder, ("movies.dat",), "items", "the movies")
            movies = split_lines(file, ("movieId", "title", "genres"), "::", "latin-1")
        else:
            files = found(self.folder, ("movies.csv", "movies.csv.gz"), "items", "the movies")
            movies = delimited(files, ("movieId", "title", "genres"), "items")
        return f"""
            WITH listed AS (
                SELECT movieId AS item_id, trim(title) AS title,
                       CASE WHEN genres = '(no genres listed)' THEN [] ELSE string_split(genres, '|') END AS genres
                FROM ({movies})
            )
            SELECT item_id, NULL::TIMESTAMPTZ AS published_at, title, genres,
                   TRY_CAST(regexp_extract(title, '\\((\\d{{4}})\\)$', 1) AS SMALLINT) AS release_year,
                   concat_ws('. ', title, nullif(array_to_string(genres, ', '), '')) AS text
            FROM listed"""

    def users(self) -> str | None:
        """See :meth:`PublishedDataset.users`."""
        if not self._is_1m:
            return None
        (file,) = found(self.folder, ("users.dat",), "users", "the users")
        users = split_lines(file, ("user_id", "gender", "age", "occupation", "zip_code"), "::", "latin-1")
        names = ", ".join(f"'{name}'" for name in _OCCUPATIONS)
        return f"""
            SELECT user_id, gender, TRY_CAST(age AS SMALLINT) AS age_from,
                   [{names}][TRY_CAST(occupation AS INTEGER) + 1] AS occupation, zip_code
            FROM ({users})"""
