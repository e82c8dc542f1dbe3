"""What S3's refusals mean, in words that say the cure, and never more said than what is ours."""

from __future__ import annotations

import pytest

from appliance.lake.bucket import refusal

PUT = "When uploading object with key 'k' in bucket 'b': AWS Error {} during PutObject operation: {}"


@pytest.mark.parametrize(
    ("code", "text", "words"),
    [
        ("ACCESS_DENIED", "AKIASECRET is not allowed", "access denied: allow s3:PutObject"),
        ("NO_SUCH_BUCKET", "AKIASECRET", "create it"),
        ("INVALID_ACCESS_KEY_ID", "AKIASECRET", "AWS_ACCESS_KEY_ID"),
        ("UNKNOWN (HTTP status 403)", "AKIASECRET", "access denied: allow s3:PutObject"),
        ("UNKNOWN (HTTP status 403)", "Unable to parse ExceptionName: ExpiredToken AKIASECRET", "status 403"),
        ("UNKNOWN (HTTP status 503)", "AKIASECRET", "S3: unknown (status 503)"),
        ("REQUEST_TIME_TOO_SKEWED (HTTP status 403)", "AKIASECRET", "S3: request time too skewed"),
        ("SLOW_DOWN", "AKIASECRET", "S3: slow down"),
        ("NETWORK_CONNECTION", "AKIASECRET", "S3: network connection"),
    ],
)
def test_refusal_says_the_cure_and_no_secret(code: str, text: str, words: str) -> None:
    found = refusal(OSError(PUT.format(code, text)))
    assert words in found
    assert "AKIA" not in found


def test_what_nobody_knows_is_named_by_its_kind() -> None:
    assert refusal(OSError("something AKIASECRET")) == "S3: OSError"
