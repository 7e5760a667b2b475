"""What goes wrong with an object store, in one line that says what to do.

boto3 has over a hundred kinds of errors, with reports of several lines, and servers add their own
codes. The package is the extra `s3`, imported when the first URL is used.
"""

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from modelsurgery.errors import ModelNotFoundError, RecipeError, StorageError
from modelsurgery.files.passwords import without_passwords

LONGEST_REPORT = 300  # a proxy's answer may be a whole page

REFUSED = {
    "AccessDenied": "access denied; check the permissions of these credentials (list, get, put, "
    "delete, abort multipart uploads)",
    "ExpiredToken": "the credentials have expired; get new ones",
    "InvalidAccessKeyId": "the server does not know this access key; check the credentials",
    "InvalidObjectState": "an object is archived; restore it first",
    "NoSuchKey": "an object is gone that was there before; list the folder, and try again when "
    "nothing writes to it",
    "NoSuchUpload": "an upload that was begun is gone; end other surgeries with the same --out, "
    "then run the same command again",
    "NotImplemented": "the server cannot do this request; expected S3 with UploadPartCopy and "
    "conditional requests",
    "PermanentRedirect": "the bucket is in another region; set AWS_REGION to that region",
    "PreconditionFailed": "the object changed while it was read; try again when nothing writes "
    "to it",
    "RequestTimeTooSkewed": "the clock of this machine is wrong; set it",
    "SignatureDoesNotMatch": "the server refuses the secret key; check the credentials",
}
# HEAD requests have the status for a code.
CODES = {
    "301": "PermanentRedirect",
    "403": "AccessDenied",
    "404": "NoSuchKey",
    "412": "PreconditionFailed",
    "501": "NotImplemented",
    "RequestExpired": "ExpiredToken",
    "TokenRefreshRequired": "ExpiredToken",
}
BUSY = {"429", "500", "502", "503", "504", "BadGateway", "InternalError", "OperationAborted"} | {
    "RequestTimeout",
    "ServiceUnavailable",
    "SlowDown",
    "Throttling",
    "TooManyRequests",
}


def imported(module: str, url: str) -> Any:
    """A module of boto3 or botocore.

    Raises:
        RecipeError: boto3 is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise RecipeError(
            f"{url}: object stores need boto3; install it with `pip install 'modelsurgery[s3]'`"
        ) from error


@contextmanager
def object_errors(url: str) -> Iterator[None]:
    """Turn what boto3 raises into one line.

    Raises:
        ModelNotFoundError: there is no such bucket.
        StorageError: anything else.
    """
    known = imported("botocore.exceptions", url)
    try:
        yield
    except known.ClientError as error:
        code = code_of(error)
        if code == "NoSuchBucket":
            raise ModelNotFoundError(f"{url}: there is no such bucket; check its name") from error
        raise StorageError(f"{url}: {_refusal(code, error)}") from error
    except (known.NoCredentialsError, known.PartialCredentialsError) as error:
        raise StorageError(
            f"{url}: no credentials; set AWS_PROFILE, or AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY"
        ) from error
    except (known.ConnectionError, known.HTTPClientError, known.IncompleteReadError) as error:
        raise StorageError(
            f"{url}: cannot reach the server ({_in_short(error)}); check AWS_ENDPOINT_URL and the "
            "network, then run the same command again"
        ) from error
    except (known.BotoCoreError, ValueError) as error:  # ValueError: an endpoint that is no URL
        raise StorageError(
            f"{url}: {_in_short(error)}; check the name of the bucket and the settings of the AWS "
            "command line (AWS_… variables, ~/.aws)"
        ) from error


def code_of(error: BaseException | None) -> str:
    """The code of an error that the server gave, in one spelling; empty of other errors."""
    answer: Any = getattr(error, "response", {})
    code = str(answer.get("Error", {}).get("Code", ""))
    return CODES.get(code, code)


def is_broken_off(error: StorageError) -> bool:
    """Whether an answer ended early: boto3 does not ask again for that."""
    known = importlib.import_module("botocore.exceptions")
    return isinstance(error.__cause__, (known.IncompleteReadError, known.ResponseStreamingError))


def _refusal(code: str, error: Any) -> str:
    if code in REFUSED:
        return REFUSED[code]
    said = _in_short(error.response.get("Error", {}).get("Message", ""))
    if code in BUSY:
        return f"the server is too busy or failing ({code}: {said}); run the same command again"
    return f"the server refuses: {code}: {said}"


def _in_short(said: object) -> str:
    line = without_passwords(" ".join(str(said).split())).rstrip(".")
    return line if len(line) <= LONGEST_REPORT else f"{line[:LONGEST_REPORT]}…"
