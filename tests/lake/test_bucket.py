"""What S3's refusals mean: to be tried again, or not, and never more said than what is ours."""

from __future__ import annotations

import pytest

from appliance.lake.bucket import refusal

PUT = "When uploading object with key 'k' in bucket 'b': AWS Error {} during PutObject operation: {}"


@pytest.mark.parametrize(
    ("code", "text", "stays"),
    [
        ("ACCESS_DENIED", "AKIASECRET is not allowed", True),
        ("NO_SUCH_BUCKET", "AKIASECRET", True),
        ("INVALID_ACCESS_KEY_ID", "AKIASECRET", True),
        ("UNKNOWN (HTTP status 403)", "AKIASECRET", True),
        ("UNKNOWN (HTTP status 403)", "Unable to parse ExceptionName: ExpiredToken AKIASECRET", False),
        ("UNKNOWN (HTTP status 503)", "AKIASECRET", False),
        ("REQUEST_TIME_TOO_SKEWED (HTTP status 403)", "AKIASECRET", False),
        ("SLOW_DOWN", "AKIASECRET", False),
        ("INTERNAL_FAILURE", "AKIASECRET", False),
        ("NETWORK_CONNECTION", "AKIASECRET", False),
    ],
)
def test_refusal_says_whether_it_stays(code: str, text: str, stays: bool) -> None:
    words, found = refusal(OSError(PUT.format(code, text)))
    assert found == stays
    assert "AKIA" not in words


def test_what_nobody_knows_is_to_be_tried_again() -> None:
    assert refusal(OSError("something AKIASECRET")) == ("S3: OSError", False)
