//! Answers of a token endpoint: the live tokens in them are replaced by the session's handle, so that none reaches the agent.
//!
//! Members are known by name, in any case, with any of `_` and `-` between the words, however deep they lie: `access_token`,
//! `refresh_token`, `id_token`, and those that registries and vaults give. Every other byte stays. What is neither JSON nor a form, or is both, is not passed on.

use std::borrow::Cow;

use bytes::Bytes;
use keyfold_core::error::Hint;
use serde::de::IgnoredAny;
use serde_json::Value;
use zeroize::Zeroizing;

/// The longest answer of a token endpoint, in bytes.
pub(crate) const MAX_ANSWER: usize = 1 << 20;

/// The members, without case and what joins their words.
const LIVE: [&str; 6] = ["accesstoken", "refreshtoken", "idtoken", "token", "clienttoken", "sessiontoken"];

/// Why an answer is not passed on.
#[non_exhaustive]
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum AnswerError {
    /// It could hold a token that is not found.
    #[error("the token endpoint's answer is not {0}, as it says it is")]
    Malformed(&'static str),
    /// Over [`MAX_ANSWER`].
    #[error("the token endpoint's answer is longer than {MAX_ANSWER} bytes")]
    TooLong,
}

impl Hint for AnswerError {
    fn hint(&self) -> Option<String> {
        Some("an answer in which tokens cannot be found is kept back; ask the endpoint for JSON".into())
    }
}

fn is_live(name: &str) -> bool {
    let bare: String = name.chars().filter(|c| !matches!(c, '_' | '-')).map(|c| c.to_ascii_lowercase()).collect();
    LIVE.contains(&bare.as_str())
}

/// Replaces the tokens of an answer in JSON. `None` where it has none.
///
/// # Errors
/// It is not JSON in UTF-8.
pub(crate) fn json(answer: &[u8], handle: &str) -> Result<Option<Bytes>, AnswerError> {
    if answer.len() > MAX_ANSWER {
        return Err(AnswerError::TooLong);
    }
    let malformed = AnswerError::Malformed("JSON");
    let text = std::str::from_utf8(answer).map_err(|_| malformed)?;
    serde_json::from_str::<IgnoredAny>(text).map_err(|_| malformed)?;
    let handle = serde_json::to_string(handle).map_err(|_| malformed)?;
    // The text is JSON, so brackets and strings are all there is to look at.
    let (mut out, mut copied) = (String::new(), 0);
    let (mut depth, mut live_from) = (0_usize, None::<usize>);
    let mut named = false;
    let bytes = text.as_bytes();
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let mut next = at + 1;
        match byte {
            b'{' | b'[' => {
                depth += 1;
                if std::mem::take(&mut named) && live_from.is_none() {
                    live_from = Some(depth);
                }
            }
            b'}' | b']' => {
                if live_from == Some(depth) {
                    live_from = None;
                }
                depth = depth.saturating_sub(1);
            }
            b',' => named = false,
            b'"' => {
                next = end_of_string(bytes, at).ok_or(malformed)?;
                let token = &text[at..next];
                if text[next..].trim_start_matches([' ', '\t', '\r', '\n']).starts_with(':') {
                    let name: Cow<'_, str> = serde_json::from_str(token).map_err(|_| malformed)?;
                    named = is_live(&name);
                } else if std::mem::take(&mut named) || live_from.is_some() {
                    out.push_str(&text[copied..at]);
                    out.push_str(&handle);
                    copied = next;
                }
            }
            _ => {}
        }
        at = next;
    }
    if copied == 0 {
        return Ok(None);
    }
    out.push_str(&text[copied..]);
    Ok(Some(out.into()))
}

/// The live tokens of an answer, for who looks for them under other names too.
pub(crate) fn live(answer: &[u8], form: bool) -> Vec<Zeroizing<Vec<u8>>> {
    fn collect(value: Value, live: bool, into: &mut Vec<Zeroizing<Vec<u8>>>) {
        match value {
            Value::String(text) if live => into.push(Zeroizing::new(text.into_bytes())),
            Value::Array(list) => list.into_iter().for_each(|value| collect(value, live, into)),
            Value::Object(members) => {
                members.into_iter().for_each(|(name, value)| collect(value, live || is_live(&name), into));
            }
            _ => {}
        }
    }
    let mut found = Vec::new();
    if form {
        let pairs = std::str::from_utf8(answer).unwrap_or_default().split('&').filter_map(|pair| pair.split_once('='));
        let live = pairs.filter(|(name, _)| is_live(unescaped(name).trim()));
        found.extend(live.map(|(_, value)| Zeroizing::new(unescaped(value).into_bytes())));
    } else if let Ok(value) = serde_json::from_slice(answer) {
        collect(value, false, &mut found);
    }
    found
}

/// One past the closing quote.
fn end_of_string(bytes: &[u8], start: usize) -> Option<usize> {
    let mut at = start + 1;
    loop {
        at += memchr::memchr2(b'"', b'\\', bytes.get(at..)?)?;
        if bytes[at] == b'"' {
            return Some(at + 1);
        }
        at += 2;
    }
}

/// Replaces the tokens of an answer in form encoding. `None` where it has none.
///
/// # Errors
/// It is not a form in ASCII.
pub(crate) fn form(answer: &[u8], handle: &str) -> Result<Option<Bytes>, AnswerError> {
    if answer.len() > MAX_ANSWER {
        return Err(AnswerError::TooLong);
    }
    let text =
        std::str::from_utf8(answer).ok().filter(|text| text.is_ascii()).ok_or(AnswerError::Malformed("a form"))?;
    let mut found = false;
    let mut out = String::with_capacity(text.len());
    for (index, pair) in text.split('&').enumerate() {
        if index > 0 {
            out.push('&');
        }
        let (name, _) = pair.split_once('=').unwrap_or((pair, ""));
        if is_live(unescaped(name).trim()) {
            found = true;
            out.push_str(name);
            out.push('=');
            out.push_str(handle);
        } else {
            out.push_str(pair);
        }
    }
    Ok(found.then(|| out.into()))
}

fn unescaped(name: &str) -> String {
    let mut out = String::new();
    let mut rest = name;
    while let Some((before, behind)) = rest.split_once('%') {
        out.push_str(before);
        match behind.get(..2).and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) => {
                out.push(char::from(byte));
                rest = &behind[2..];
            }
            None => {
                out.push('%');
                rest = behind;
            }
        }
    }
    out.push_str(rest);
    out.replace('+', " ")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json as value;

    use super::*;

    fn replaced(text: &str) -> String {
        let out = json(text.as_bytes(), "kfh_1").unwrap();
        out.map_or_else(|| text.to_owned(), |out| String::from_utf8(out.to_vec()).unwrap())
    }

    #[test]
    fn p35_live_tokens_become_the_handle_and_every_other_byte_stays() {
        for (answer, is) in [
            (
                "{ \"access_token\" :\t\"ya29.s3cr3t\",\n \"expires_in\": 3599 , \"scope\":\"a\\u0062 c\"}",
                "{ \"access_token\" :\t\"kfh_1\",\n \"expires_in\": 3599 , \"scope\":\"a\\u0062 c\"}",
            ),
            ("{\"Access-Token\":\"s3cr3t\"}", "{\"Access-Token\":\"kfh_1\"}"),
            (
                "{\"accessToken\":\"s3cr3t\",\"ID_TOKEN\":\"s3cr3t\"}",
                "{\"accessToken\":\"kfh_1\",\"ID_TOKEN\":\"kfh_1\"}",
            ),
            (
                "{\"a\":[{\"refresh_token\":\"s3cr3t\"}],\"b\":\"c\"}",
                "{\"a\":[{\"refresh_token\":\"kfh_1\"}],\"b\":\"c\"}",
            ),
            ("{\"acc\\u0065ss_token\":\"s3\\\"cr3t\"}", "{\"acc\\u0065ss_token\":\"kfh_1\"}"),
            (
                "{\"access_token\":\"s3cr3t\",\"access_token\":\"s3cr3t\"}",
                "{\"access_token\":\"kfh_1\",\"access_token\":\"kfh_1\"}",
            ),
            (
                "{\"access_token\":{\"value\":\"s3cr3t\",\"more\":[\"s3cr3t\"]},\"x\":\"y\"}",
                "{\"access_token\":{\"value\":\"kfh_1\",\"more\":[\"kfh_1\"]},\"x\":\"y\"}",
            ),
            ("[\"access_token\",\"x\"]", "[\"access_token\",\"x\"]"),
            ("{\"a\":\"access_token\",\"b\":\"c\"}", "{\"a\":\"access_token\",\"b\":\"c\"}"),
            ("{\"access_token\":null,\"b\":\"c\"}", "{\"access_token\":null,\"b\":\"c\"}"),
            ("{\"access_token\":[],\"b\":\"c\"}", "{\"access_token\":[],\"b\":\"c\"}"),
            ("{\"access_token_url\":\"c\",\"b\":\"\\\\\"}", "{\"access_token_url\":\"c\",\"b\":\"\\\\\"}"),
        ] {
            assert_eq!(replaced(answer), is);
            assert!(!is.contains("s3cr3t"));
        }
    }

    #[test]
    fn p35_live_tokens_are_found_for_who_looks_for_their_other_names() {
        let found = |text: &str, form| {
            let found = live(text.as_bytes(), form).into_iter();
            found.map(|text| String::from_utf8(text.to_vec()).unwrap()).collect::<Vec<_>>()
        };
        let json = "{\"a\":\"b\",\"access_token\":\"one\",\"auth\":{\"client-token\":[\"two\"]},\"id_token\":null}";
        assert_eq!(found(json, false), ["one", "two"]);
        assert_eq!(found("a=b&token=x%2Fy&token_type=bearer", true), ["x/y"]);
        assert!(found("[", false).is_empty());
    }

    #[test]
    fn p35_what_cannot_be_read_is_not_passed_on() {
        for answer in
            ["", "{\"access_token\":\"x\"", "{\"access_token\":\"x\"}{}", "\u{feff}{}", "access_token=x", "{'a':1}"]
        {
            assert_eq!(json(answer.as_bytes(), "h"), Err(AnswerError::Malformed("JSON")), "{answer}");
        }
        assert_eq!(json(b"{\"access_token\":\"\xff\"}", "h"), Err(AnswerError::Malformed("JSON")));
        assert_eq!(json(&vec![b' '; MAX_ANSWER + 1], "h"), Err(AnswerError::TooLong));
        assert_eq!(form("access_token=é".as_bytes(), "h"), Err(AnswerError::Malformed("a form")));
    }

    #[test]
    fn p35_a_form_is_read_as_forms_are() {
        let form = |text: &str| {
            let out = form(text.as_bytes(), "kfh_1").unwrap();
            out.map(|out| String::from_utf8(out.to_vec()).unwrap())
        };
        assert_eq!(
            form("access_token=gho_s3cr3t&scope=a%20b&t=bearer").unwrap(),
            "access_token=kfh_1&scope=a%20b&t=bearer"
        );
        assert_eq!(form("a=b&%61ccess%5Ftoken=x&+id_token=y").unwrap(), "a=b&%61ccess%5Ftoken=kfh_1&+id_token=kfh_1");
        assert_eq!(form("error=access_token"), None);
        assert_eq!(form("%=%zz&"), None);
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf =
            prop_oneof![Just(value!(null)), any::<i32>().prop_map(|n| value!(n)), ".{0,6}".prop_map(|s| value!(s))];
        leaf.prop_recursive(4, 24, 4, |inner| {
            let name = prop_oneof!["[a-z\"\\\\{}:,]{0,4}", Just("access_token".to_owned()), Just("idToken".to_owned())];
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::vec((name, inner), 0..4)
                    .prop_map(|members| Value::Object(members.into_iter().collect())),
            ]
        })
    }

    /// The same by a tree.
    fn in_tree(value: &mut Value, live: bool) {
        match value {
            Value::String(text) if live => *text = "h".into(),
            Value::Array(list) => list.iter_mut().for_each(|value| in_tree(value, live)),
            Value::Object(members) => {
                members.iter_mut().for_each(|(name, value)| in_tree(value, live || is_live(name)));
            }
            _ => {}
        }
    }

    proptest! {
        #[test]
        fn p35_what_is_replaced_is_what_a_tree_would_have(value in any_json(), pretty: bool) {
            let text = if pretty { serde_json::to_string_pretty(&value) } else { serde_json::to_string(&value) }.unwrap();
            let out = json(text.as_bytes(), "h").unwrap().map_or(text.clone().into_bytes(), |out| out.to_vec());
            let mut expected = value;
            in_tree(&mut expected, false);
            prop_assert_eq!(serde_json::from_slice::<Value>(&out).unwrap(), expected);
        }
    }
}
