"""Makes sigv4.json: requests signed by botocore, for given keys and times.

    pip install botocore && python sigv4.py            writes the file beside this script
    python sigv4.py --check                            fails when the committed one differs
"""
import datetime
import hashlib
import json
import pathlib
import sys
from urllib.parse import urlsplit

import botocore.auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

HERE = pathlib.Path(__file__).resolve().parent
KEY, SECRET = "AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
TOKEN = "AQoDYXdzEPT//////////wEXAMPLEtc764bNrC9SAPBSM22wDOk4x4HIZ8j4FZTwdQW=="
UNSIGNED = "UNSIGNED-PAYLOAD"
TRAILER = "STREAMING-UNSIGNED-PAYLOAD-TRAILER"

# service, method, URL, headers, body, session token
CASES = [
    ("service", "GET", "https://example.amazonaws.com/", {}, "", None),
    ("service", "POST", "https://example.amazonaws.com/", {"Content-Type": "application/x-www-form-urlencoded"}, "Param1=value1", None),
    ("sts", "POST", "https://sts.us-east-1.amazonaws.com/", {"Content-Type": "application/x-amz-json-1.1"}, "{}", TOKEN),
    ("ec2", "GET", "https://ec2.eu-west-1.amazonaws.com/?Version=2016-11-15&Action=DescribeInstances&A=b%20c&a=", {}, "", None),
    ("ec2", "GET", "https://ec2.eu-west-1.amazonaws.com/?b=2&b=1&a-b=%2F&a=%C3%A9&Z", {}, "", TOKEN),
    ("lambda", "POST", "https://lambda.us-east-1.amazonaws.com/2015-03-31/functions/arn%3Aaws%3Alambda%3Ax/invocations", {}, "x" * 3000, None),
    ("logs", "POST", "https://logs.us-east-1.amazonaws.com/", {"X-Amz-Target": "Logs_20140328.PutLogEvents", "My-Header": "  a   b  c "}, "{}", None),
    ("s3", "GET", "https://bucket.s3.amazonaws.com/a%20b/c%2Bd/~e", {"Range": "bytes=0-9"}, "", None),
    ("s3", "GET", "https://bucket.s3.amazonaws.com/?list-type=2&prefix=a%2Fb&delimiter=%2F", {}, "", TOKEN),
    ("s3", "PUT", "https://bucket.s3.amazonaws.com/k", {"X-Amz-Content-SHA256": UNSIGNED, "X-Amz-Meta-A": "b"}, "body", TOKEN),
    ("s3", "PUT", "https://bucket.s3.amazonaws.com/k", {"X-Amz-Content-SHA256": TRAILER, "X-Amz-Trailer": "x-amz-checksum-crc32"}, "body", None),
    ("s3", "DELETE", "https://s3.eu-central-1.amazonaws.com:8443/bucket/k?versionId=3%2F4", {}, "", None),
]


def signed(case):
    service, method, url, headers, body, token = case
    request = AWSRequest(method=method, url=url, headers=dict(headers), data=body.encode())
    if service == "s3" and "X-Amz-Content-SHA256" not in headers:
        request.headers["X-Amz-Content-SHA256"] = hashlib.sha256(body.encode()).hexdigest()
    auth = botocore.auth.S3SigV4Auth if service == "s3" else botocore.auth.SigV4Auth
    signer = auth(Credentials(KEY, SECRET, token), service, "us-east-1")
    # The hash of the body is set above; S3's signer would take it off and set it again.
    signer._modify_request_before_signing = lambda r: botocore.auth.SigV4Auth._modify_request_before_signing(signer, r)
    signer.add_auth(request)
    out = {name.lower(): value for name, value in request.headers.items()}
    parts = urlsplit(url)
    out.setdefault("host", parts.netloc)
    authorization = out.pop("authorization")
    out.pop("x-amz-security-token", None)
    return {
        "service": service,
        "method": method,
        "target": parts.path + ("?" + parts.query if parts.query else ""),
        "headers": sorted(out.items()),
        "body": body,
        "token": token,
        "authorization": authorization,
    }


def main():
    botocore.auth.get_current_datetime = lambda *a, **k: datetime.datetime(2015, 8, 30, 12, 36, 0)
    made = {"key_id": KEY, "secret": SECRET, "cases": [signed(case) for case in CASES]}
    text = json.dumps(made, indent=1) + "\n"
    path = HERE / "sigv4.json"
    if sys.argv[1:] == ["--check"]:
        sys.exit(0 if path.read_text() == text else "sigv4.json differs from what botocore signs")
    path.write_text(text)


if __name__ == "__main__":
    main()
