"""A lake in S3: files are put whole; what the service refuses, in words that say the cure.

Contract: an object is there whole or not at all, which S3 promises for a put. ``publish`` of several that
fails takes back what it has put, as far as it can. Nothing is merged, since S3 cannot exchange several
objects at once (docs/lake.md says what to do), and nothing is shed: that is a lifecycle rule's.

Credentials and region are the AWS chain's, read by Arrow's own S3 client; none is read, kept or said here.
The endpoint alone (AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL) is read here, since that client does not.

Bounds: time-outs for connecting and for each request, ``TRIES`` of each.
"""

from __future__ import annotations

import os
import re
from contextlib import suppress
from typing import Any, Final

import pyarrow as pa
from pyarrow import fs

ENDPOINT: Final = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
CONNECT: Final = 5.0  # seconds
REQUEST: Final = 30.0
TRIES: Final = 2  # the shipper tries again, more patiently
_CODE: Final = re.compile(r"AWS Error ([A-Z_0-9]+)")
_STATUS: Final = re.compile(r"HTTP status (\d{3})")

# What S3 answers until somebody has changed something.
_CURES: Final = {
    "ACCESS_DENIED": "access denied: allow s3:PutObject and s3:AbortMultipartUpload on the bucket's objects",
    "INVALID_ACCESS_KEY_ID": "the access key is not known: see AWS_ACCESS_KEY_ID or the instance's role",
    "SIGNATURE_DOES_NOT_MATCH": "the secret key does not fit the access key: see AWS_SECRET_ACCESS_KEY",
    "NO_SUCH_BUCKET": "no such bucket: create it, or mend SNIFFER_LAKE_URL",
    "INVALID_BUCKET_NAME": "no bucket can have this name: mend SNIFFER_LAKE_URL",
    "PERMANENT_REDIRECT": "the bucket is in another region: set AWS_REGION",
}
_UNNAMED: Final = {"", "UNKNOWN"}  # what Arrow's client has no word for
_PASSING: Final = ("ExpiredToken", "RequestTimeTooSkewed", "SlowDown")  # of these, what time cures
_REFUSED: Final = {"403": "ACCESS_DENIED", "404": "NO_SUCH_BUCKET", "301": "PERMANENT_REDIRECT"}


class Bucket:
    def __init__(self, place: str) -> None:
        """``place``: bucket/prefix."""
        self._place = place.strip("/")
        self._system: Any = None

    def publish(self, files: list[tuple[str, str, Any]]) -> None:
        """(folder, name, octets) each."""
        if self._system is None:
            self._system = fs.S3FileSystem(
                endpoint_override=next(filter(None, map(os.environ.get, ENDPOINT)), None),
                connect_timeout=CONNECT,
                request_timeout=REQUEST,
                retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=TRIES),
                background_writes=False,
                allow_delayed_open=True,  # one request where one will do
            )
        done: list[str] = []
        try:
            for where, name, octets in files:
                path = f"{self._place}/{where}/{name}"
                done.append(path)
                with self._system.open_output_stream(path, buffer_size=None) as out:
                    out.write(octets)
        except (OSError, pa.ArrowException):
            for path in done:
                with suppress(OSError, pa.ArrowException):
                    self._system.delete_file(path)
            raise


def refusal(error: BaseException) -> str:
    """What is wrong, in our own words: what S3 says may hold what is nobody's business."""
    text = str(error)
    code, status = _CODE.search(text), _STATUS.search(text)
    name = code[1] if code else ""
    if name in _UNNAMED and status and not any(word in text for word in _PASSING):
        name = _REFUSED.get(status[1], name)
    if name in _CURES:
        return f"S3: {_CURES[name]}"
    return f"S3: {name.lower().replace('_', ' ') or type(error).__name__}" + (
        f" (status {status[1]})" if status else ""
    )
