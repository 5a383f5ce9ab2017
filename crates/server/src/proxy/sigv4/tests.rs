use proptest::prelude::*;

use super::*;

#[derive(serde::Deserialize)]
struct Vectors {
    key_id: String,
    secret: String,
    cases: Vec<Case>,
}

#[derive(serde::Deserialize)]
struct Case {
    service: String,
    method: String,
    target: String,
    headers: Vec<(String, String)>,
    body: String,
    token: Option<String>,
    authorization: String,
}

const HANDLE: &str = "kfh_0123456789abcdef_secret-part";
const NOTHING: &str = "0000000000000000000000000000000000000000000000000000000000000000";

fn credentials(key_id: &str, secret: &str, token: Option<&str>) -> Credentials {
    Credentials {
        key_id: key_id.into(),
        secret: Secret::from(secret.as_bytes()),
        session_token: token.map(|token| Secret::from(token.as_bytes())),
    }
}

fn agent(service: &str, headers: &str) -> String {
    format!(
        "AWS4-HMAC-SHA256 Credential={HANDLE}/20150830/us-east-1/{service}/aws4_request, SignedHeaders={headers}, \
         Signature={NOTHING}"
    )
}

#[test]
fn what_is_signed_anew_is_what_botocore_signs() {
    let vectors: Vectors = serde_json::from_str(include_str!("../../../../../vectors/sigv4.json")).unwrap();
    assert_eq!(vectors.cases.len(), 12);
    for case in vectors.cases {
        // The agent's own client signs the same headers, with the handle as key id.
        let names: Vec<&str> = case.headers.iter().map(|(name, _)| name.as_str()).collect();
        let authorization = agent(&case.service, &names.join(";"));
        let signed = Signed::parse(&authorization).unwrap();
        assert_eq!(signed.handle.0, HANDLE);
        let headers: Vec<(&str, &str)> = case.headers.iter().map(|(name, value)| (&**name, &**value)).collect();
        let said = headers.iter().find(|(name, _)| *name == "x-amz-content-sha256").map(|(_, value)| *value);
        let body = hash(case.body.as_bytes());
        let payload = match signed.payload(said).unwrap() {
            Payload::Said(said) => said,
            Payload::Body => &body,
        };
        let path = Path::parse(&case.target, false).or_else(|_| Path::parse(&case.target, true)).unwrap();
        let request = Outgoing { method: &case.method, path: &path, headers: &headers, payload };
        let with = credentials(&vectors.key_id, &vectors.secret, case.token.as_deref());
        let made = signed.resign(&request, &with).unwrap();
        assert_eq!(*made.authorization, case.authorization, "{} {}", case.method, case.target);
        assert_eq!(made.security_token.map(|token| token.to_string()), case.token);
        assert!(!made.authorization.contains(HANDLE));
    }
}

/// The examples of AWS's own documentation of S3 ("Authenticating requests: using the Authorization header").
#[test]
fn what_is_signed_anew_is_what_the_documentation_of_s3_has() {
    const EMPTY: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    const BODY: &str = "44ce7dd67c959e0d3524ffac1771dfbba87d2b6b4b4e99e42034a8b803f8b072";
    type Example = (&'static str, &'static str, &'static [(&'static str, &'static str)], &'static str, &'static str);
    let examples: [Example; 4] = [
        (
            "GET",
            "/test.txt",
            &[("range", "bytes=0-9")],
            EMPTY,
            "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41",
        ),
        (
            "PUT",
            "/test%24file.text",
            &[("date", "Fri, 24 May 2013 00:00:00 GMT"), ("x-amz-storage-class", "REDUCED_REDUNDANCY")],
            BODY,
            "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd",
        ),
        ("GET", "/?lifecycle", &[], EMPTY, "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543"),
        (
            "GET",
            "/?max-keys=2&prefix=J",
            &[],
            EMPTY,
            "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7",
        ),
    ];
    let with = credentials("AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", None);
    for (method, target, more, payload, signature) in examples {
        let authorization = agent("s3", "date;host;range;x-amz-date").replace("20150830", "20130524");
        let mut headers = vec![
            ("host", "examplebucket.s3.amazonaws.com"),
            ("x-amz-content-sha256", payload),
            ("x-amz-date", "20130524T000000Z"),
            ("user-agent", "not signed"),
        ];
        headers.extend_from_slice(more);
        let path = Path::parse(target, false).unwrap();
        let request = Outgoing { method, path: &path, headers: &headers, payload };
        let made = Signed::parse(&authorization).unwrap().resign(&request, &with).unwrap();
        assert!(made.authorization.ends_with(&format!("Signature={signature}")), "{target}");
    }
}

#[test]
fn what_is_no_signature_of_version_4_is_refused() {
    let good = agent("s3", "host;x-amz-date");
    assert!(Signed::parse(&good).is_ok());
    assert!(Signed::parse(&good.replace(", ", ",")).is_ok());
    for bad in [
        String::new(),
        "Bearer x".into(),
        "AWS kfh_1:frJIUN8DYpKDtOLCwo//yllqDzg=".into(),
        good.replace("HMAC-SHA256", "ECDSA-P256-SHA256"),
        good.replace("aws4_request", "aws5_request"),
        good.replace("/s3/", "/"),
        good.replace("/s3/", "/s3/s3/"),
        good.replace("us-east-1", "us\neast"),
        good.replace("us-east-1", ""),
        good.replace("20150830", "2015083"),
        good.replace("host;", ""),
        good.replace("host;", "Host;host;"),
        good.replace("host;", ";host;"),
        good.replace(HANDLE, ""),
        good.replace("Signature=0", "Signature="),
        format!("{good}, Signature={NOTHING}"),
        format!("{good}, Other=1"),
        format!("{good},"),
        good.replace("Credential=", "Credential=Credential="),
        good.clone() + &"0".repeat(MAX_HEADER),
    ] {
        assert_eq!(Signed::parse(&bad).map(drop), Err(SigV4Error::Authorization), "{bad}");
    }
    assert!(!format!("{:?}", Signed::parse(&good).unwrap()).contains(HANDLE), "the handle is not printed");
}

#[test]
fn signed_chunks_and_presigned_urls_are_refused() {
    let good = agent("s3", "host;x-amz-date");
    let signed = Signed::parse(&good).unwrap();
    for (value, payload) in [
        (None, Ok(Payload::Body)),
        (Some("UNSIGNED-PAYLOAD"), Ok(Payload::Said("UNSIGNED-PAYLOAD"))),
        (Some("STREAMING-UNSIGNED-PAYLOAD-TRAILER"), Ok(Payload::Said("STREAMING-UNSIGNED-PAYLOAD-TRAILER"))),
        (Some(NOTHING), Ok(Payload::Said(NOTHING))),
        (Some("STREAMING-AWS4-HMAC-SHA256-PAYLOAD"), Err(SigV4Error::Streaming)),
        (Some("STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER"), Err(SigV4Error::Streaming)),
        (Some("STREAMING-AWS4-ECDSA-P256-SHA256-PAYLOAD"), Err(SigV4Error::Streaming)),
        (Some(""), Err(SigV4Error::Payload)),
        (Some("unsigned-payload"), Err(SigV4Error::Payload)),
    ] {
        assert_eq!(signed.payload(value), payload, "{value:?}");
    }
    assert!(SigV4Error::Streaming.hint().unwrap().contains("payload_signing_enabled"));
    for query in ["X-Amz-Signature=1", "a=b&x-amz-credential=1", "X-Amz%2DAlgorithm", "AWSAccessKeyId=1&Signature=2"] {
        assert_eq!(refuse_presigned(Some(query)), Err(SigV4Error::Presigned), "{query}");
    }
    assert_eq!(refuse_presigned(Some("list-type=2&prefix=signature")), Ok(()));
    assert_eq!(refuse_presigned(None), Ok(()));
}

#[test]
fn the_date_must_be_there_once_and_of_the_scopes_day() {
    let good = agent("s3", "host;x-amz-date");
    let signed = Signed::parse(&good).unwrap();
    let path = Path::parse("/", false).unwrap();
    let with = credentials("AKID", "secret", None);
    let sign = |dates: &[&'static str]| {
        let mut headers = vec![("host", "a.example")];
        headers.extend(dates.iter().map(|date| ("x-amz-date", *date)));
        let request = Outgoing { method: "GET", path: &path, headers: &headers, payload: NOTHING };
        signed.resign(&request, &with).map(drop)
    };
    assert_eq!(sign(&["20150830T000000Z"]), Ok(()));
    for bad in [&[][..], &["20150831T000000Z"], &["20150830T00000Z"], &["20150830T000000z"], &["20150830T000000Z"; 2]] {
        assert_eq!(sign(bad), Err(SigV4Error::Date), "{bad:?}");
    }
}

proptest! {
    #[test]
    fn any_header_is_read_or_refused(text in "AWS4-HMAC-SHA256 [ -~é]{0,120}", dates in "[0-9TZé]{14,17}") {
        if let Ok(signed) = Signed::parse(&text) {
            prop_assert!(signed.headers.contains(&"host"));
        }
        let good = agent("s3", "host");
        let signed = Signed::parse(&good).unwrap();
        let _ = signed.is_moment(&dates);
    }

    #[test]
    fn a_query_is_sorted_and_escaped_once(pairs in prop::collection::vec(("[a-z~/ é]{1,4}", "[A-Z%+=]{0,4}"), 0..6)) {
        let raw = |pairs: &[(String, String)]| {
            pairs.iter().map(|(n, v)| format!("{}={}", escaped(n.as_bytes(), false), escaped(v.as_bytes(), false))).collect::<Vec<_>>().join("&")
        };
        let mut sorted = pairs.iter().map(|(n, v)| (escaped(n.as_bytes(), false), escaped(v.as_bytes(), false))).collect::<Vec<_>>();
        sorted.sort();
        let expected = sorted.iter().map(|(n, v)| format!("{n}={v}")).collect::<Vec<_>>().join("&");
        prop_assert_eq!(canonical_query(Some(&raw(&pairs))), expected);
    }
}
