"""KuaiRand-Pure, KuaiRand-1K and KuaiRand-27K: video impressions of Kuaishou."""

from __future__ import annotations

from typing import ClassVar

from sidkit.core.config import Feedback
from sidkit.datasets.published import PublishedDataset
from sidkit.datasets.raw_files import delimited, found

_FLAGS = ("is_live_streamer", "is_video_author")
_RANGES = ("register_days_range", "follow_user_num_range", "fans_user_num_range", "friend_user_num_range")
_ANONYMOUS = tuple(f"onehot_feat{number}" for number in range(18))


class KuaiRand(PublishedDataset):
    """Video impressions of Kuaishou, some of them of videos drawn at random: ``kuairand:PATH``.

    PATH holds ``log_*.csv``, ``user_features_*.csv`` and ``video_features_basic_*.csv`` (the folder ``data`` of a published
    archive, or the folder above it). Times are milliseconds since 1970, UTC.

    - ``label``: ``is_click``; every row is an exposure. ``converted``: ``long_view`` (watched for 18 seconds, or to the end).
      Positions and requests are not published.
    - Context of an interaction: ``tab`` (the scenario), ``hour`` (0 to 23, China Standard Time) and ``is_rand`` (drawn at
      random).
    - ``created_at``: midnight of the upload date, China Standard Time, or the first exposure if that is missing or later.
    - Items: ``author_id``, ``video_type``, ``upload_type``, ``duration_seconds``, ``width`` and ``height`` (pixels),
      ``music_id``, ``music_type``, ``tags`` (list).
    - ``users``: ``is_live_streamer``, ``is_video_author``, ranges of the days since registration and of the numbers of
      followed users, followers and friends, and the anonymous ``onehot_feat0`` to ``onehot_feat17``. They are one snapshot per
      user without a date; ranges change slowly.
    - Left out: ``video_features_statistic``, which averages over the whole month and so knows the future of the log;
      ``visible_status`` and the users' ``user_active_degree`` and ``is_lowactive_period`` for the same reason; exact counts of
      followers; other feedback and times of viewing, which are outcomes.

    Terms: CC BY-SA 4.0 (the data set's page, "KuaiRand"). Citation: C. Gao et al., "KuaiRand: An Unbiased Sequential
    Recommendation Dataset with Randomly Exposed Videos", CIKM 2022.
    """

    name: ClassVar[str] = "kuairand"
    feedback: Feedback = "impressions"
    conversions: bool = True

    def interactions(self) -> str:
        """See :meth:`PublishedDataset.interactions`."""
        needed = ("user_id", "video_id", "time_ms", "is_click", "long_view", "hourmin", "tab", "is_rand")
        files = found(self.folder, ("log_*.csv", "data/log_*.csv"), "interactions", "the logs")
        return f"""
            SELECT user_id, video_id AS item_id, make_timestamptz(TRY_CAST(time_ms AS BIGINT) * 1000) AS timestamp,
                   TRY_CAST(is_click AS TINYINT) AS label, TRY_CAST(long_view AS TINYINT) AS converted, tab,
                   (TRY_CAST(hourmin AS INTEGER) // 100)::TINYINT AS hour, TRY_CAST(is_rand AS TINYINT) AS is_rand
            FROM ({delimited(files, needed, "interactions")})"""

    def items(self) -> str:
        """See :meth:`PublishedDataset.items`."""
        needed = (
            "video_id", "author_id", "video_type", "upload_dt", "upload_type", "video_duration", "server_width",
            "server_height", "music_id", "music_type", "tag",
        )  # fmt: skip
        patterns = ("video_features_basic*.csv", "data/video_features_basic*.csv")
        files = found(self.folder, patterns, "items", "the features of the videos")
        return f"""
            SELECT video_id AS item_id, TRY_CAST(upload_dt AS TIMESTAMP) AT TIME ZONE 'Asia/Shanghai' AS published_at,
                   author_id, video_type, upload_type, (TRY_CAST(video_duration AS DOUBLE) / 1000)::FLOAT AS duration_seconds,
                   TRY_CAST(server_width AS DOUBLE)::INTEGER AS width, TRY_CAST(server_height AS DOUBLE)::INTEGER AS height,
                   music_id, music_type, coalesce(string_split(tag, ','), []) AS tags
            FROM ({delimited(files, needed, "items")})"""

    def users(self) -> str | None:
        """See :meth:`PublishedDataset.users`."""
        files = found(
            self.folder, ("user_features*.csv", "data/user_features*.csv"), "users", "the features of the users"
        )
        flags = ", ".join(f"TRY_CAST({name} AS TINYINT) AS {name}" for name in _FLAGS)
        needed = ("user_id", *_FLAGS, *_RANGES, *_ANONYMOUS)
        return (
            f"SELECT user_id, {flags}, {', '.join((*_RANGES, *_ANONYMOUS))} FROM ({delimited(files, needed, 'users')})"
        )
