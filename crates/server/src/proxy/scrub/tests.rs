use std::fmt::Write as _;

use base64_simd::{STANDARD, STANDARD_NO_PAD, URL_SAFE};
use proptest::prelude::*;

use super::*;

const TOKEN: &str = "ya29.a0AfH6SMBx/7+Q==_-z";

fn scrubber(secrets: &[&[u8]]) -> Scrubber {
    Scrubber::new(&Arc::new(Patterns::new(secrets)))
}

/// The whole text in one go.
fn whole(secrets: &[&str], text: &[u8]) -> Vec<u8> {
    cut(secrets, text, &[])
}

/// The same, cut before each of these places.
fn cut(secrets: &[&str], text: &[u8], cuts: &[usize]) -> Vec<u8> {
    let secrets: Vec<&[u8]> = secrets.iter().map(|secret| secret.as_bytes()).collect();
    let mut scrubber = scrubber(&secrets);
    let mut out = Vec::new();
    let mut from = 0;
    for &at in cuts.iter().chain([&text.len()]) {
        out.extend_from_slice(&scrubber.scrub(Bytes::copy_from_slice(&text[from..at])));
        from = at;
    }
    out.extend_from_slice(&scrubber.finish());
    out
}

fn percent(text: &str, upper: bool, keep: fn(u8) -> bool) -> String {
    text.bytes().fold(String::new(), |mut out, byte| {
        let _ = match (keep(byte), upper) {
            (true, _) => write!(out, "{}", char::from(byte)),
            (false, true) => write!(out, "%{byte:02X}"),
            (false, false) => write!(out, "%{byte:02x}"),
        };
        out
    })
}

fn json(text: &str, upper: bool) -> String {
    text.encode_utf16().fold(String::new(), |mut out, unit| {
        let _ = if upper { write!(out, "\\u{unit:04X}") } else { write!(out, "\\u{unit:04x}") };
        out
    })
}

/// Spellings that are masked whole.
fn spellings(secret: &str) -> Vec<String> {
    let hex = |upper| percent(secret, upper, |_| false).replace('%', "");
    let unreserved = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    let mut all = vec![
        secret.to_owned(),
        hex(true),
        hex(false),
        json(secret, true),
        json(secret, false),
        secret.replace('/', "\\/"),
        serde_json::to_string(secret).unwrap().trim_matches('"').to_owned(),
    ];
    for upper in [true, false] {
        all.push(percent(secret, upper, |_| false));
        all.push(percent(secret, upper, unreserved));
    }
    all
}

#[test]
fn p34_every_usual_spelling_is_masked_at_equal_length() {
    for secret in [TOKEN, "pässwörd 😀 \"x\" \\ / % end", "%25%2525%%41\\u0041\\\\x", "aaaaaaaaaaaa", "12345678"] {
        for spelling in spellings(secret) {
            let text = format!("{{\"a\": \"{spelling}\", \"b\": 1}}");
            let out = String::from_utf8(whole(&[secret], text.as_bytes())).unwrap();
            let masked = format!("{{\"a\": \"{}\", \"b\": 1}}", "*".repeat(spelling.len()));
            assert_eq!(out, masked, "{spelling}");
        }
    }
}

#[test]
fn p34_base64_is_masked_wherever_in_a_text_the_secret_begins() {
    for before in ["", "u", "us", "use", "user:", "user: "] {
        for behind in ["", "x", "xy", "xyz"] {
            for (alphabet, name) in [(STANDARD, "standard"), (URL_SAFE, "url")] {
                let text = alphabet.encode_to_string(format!("{before}{TOKEN}{behind}"));
                for text in
                    [text.clone(), text.replace('/', "\\/"), percent(&text, true, |b| b.is_ascii_alphanumeric())]
                {
                    let out = String::from_utf8(whole(&[TOKEN], text.as_bytes())).unwrap();
                    assert_eq!(out.len(), text.len());
                    let left: String = out.chars().filter(|&c| c != '*').collect();
                    // Up to two characters at either end are the neighbours' too, beside the padding.
                    let bare = left.replace("%3D", "=");
                    let own =
                        STANDARD_NO_PAD.encode_to_string(before).len() + STANDARD_NO_PAD.encode_to_string(behind).len();
                    assert!(bare.trim_end_matches('=').len() <= own + 4, "{name} {before}|{behind}: {out}");
                }
            }
        }
    }
}

#[test]
fn p34_every_cut_gives_the_same() {
    for spelling in spellings(TOKEN).into_iter().chain([STANDARD.encode_to_string(format!("u:{TOKEN}"))]) {
        let text = format!("ya29 %79 {spelling}{spelling} \\u00 ya29.a0Af\\u0048%");
        let expected = whole(&[TOKEN], text.as_bytes());
        for a in 0..=text.len() {
            assert_eq!(cut(&[TOKEN], text.as_bytes(), &[a]), expected, "{a} {text}");
        }
        let every: Vec<usize> = (1..text.len()).collect();
        assert_eq!(cut(&[TOKEN], text.as_bytes(), &every), expected);
    }
}

#[test]
fn what_is_no_secret_is_left_as_it_is_without_a_copy() {
    let text = Bytes::from("{\"a\": \"b\\n\\u0041 %20 ya29\", \"x\": [1, 2]}".repeat(100));
    let mut scrubber = scrubber(&[TOKEN.as_bytes(), b"short"]);
    let out = scrubber.scrub(text.clone());
    assert_eq!((out.as_ptr(), out.len()), (text.as_ptr(), text.len()));
    assert!(scrubber.finish().is_empty());
    assert_eq!(whole(&["short"], b"short"), b"short", "it would be masked by chance elsewhere");
    assert_eq!(whole(&[], b"anything"), b"anything");
}

#[test]
fn secrets_that_overlap_are_masked_both() {
    assert_eq!(whole(&["abcdefgh", "efghijkl"], b"-abcdefghijkl-"), b"-************-");
    assert_eq!(whole(&["abcdefgh", "abcdefghijkl"], b"-abcdefghijkl-"), b"-************-");
    assert_eq!(whole(&["abcdefgh", "abcdefghijkl"], b"-abcdefghijk-"), b"-********ijk-");
    assert_eq!(whole(&["abababab"], b"-ababababab-"), b"-**********-");
}

#[test]
fn no_more_is_held_back_than_the_longest_spelling() {
    let secret = "s".repeat(500);
    let mut scrubber = scrubber(&[secret.as_bytes()]);
    let escaped = json(&secret[1..], false);
    for _ in 0..20 {
        let _ = scrubber.scrub(Bytes::from(escaped.clone()));
        assert!(scrubber.held.len() <= 6 * 2 * secret.len(), "{}", scrubber.held.len());
    }
}

#[test]
fn a_pause_sets_a_chance_beginning_free_and_no_more() {
    let mut scrubber = scrubber(&[TOKEN.as_bytes()]);
    assert_eq!(scrubber.scrub(Bytes::from("message ya2")), "message ");
    assert_eq!(scrubber.idle(), "ya2");
    assert_eq!(scrubber.idle(), "");
    assert_eq!(scrubber.scrub(Bytes::from(" and more y")), " and more ");
    assert_eq!(scrubber.idle(), "y");
    let rest = format!("{} end", &TOKEN[1..]);
    assert_eq!(scrubber.scrub(Bytes::from(rest)), format!("{} end", "*".repeat(TOKEN.len() - 1)));
    assert_eq!(scrubber.scrub(Bytes::copy_from_slice(&TOKEN.as_bytes()[..12])), "");
    assert_eq!(scrubber.idle(), "", "so much is no chance");
    assert_eq!(scrubber.finish(), &TOKEN[..12]);
}

/// Slowly, by trying everywhere: what must be masked.
fn slowly(secret: &str, text: &[u8]) -> Vec<u8> {
    let mut out = text.to_vec();
    for start in 0..text.len() {
        let mut places = vec![(start, 0)];
        while let Some((at, place)) = places.pop() {
            if place == secret.len() {
                out[start..at].fill(b'*');
                continue;
            }
            let Some(&byte) = text.get(at) else { continue };
            let wanted = secret.as_bytes()[place];
            if byte == wanted {
                places.push((at + 1, place + 1));
            }
            let digits = match (byte, text.get(at + 1)) {
                (b'%', _) => at + 1..at + 3,
                (b'\\', Some(b'u')) => at + 2..at + 6,
                (b'\\', Some(&next)) if next == wanted && next.is_ascii_punctuation() => {
                    places.push((at + 2, place + 1));
                    continue;
                }
                _ => continue,
            };
            let end = digits.end;
            let number = text.get(digits).and_then(|digits| std::str::from_utf8(digits).ok());
            if number.and_then(|n| u32::from_str_radix(n, 16).ok()) == Some(u32::from(wanted)) {
                places.push((end, place + 1));
            }
        }
    }
    out
}

proptest! {
    #[test]
    fn p34_any_cuts_give_the_same(
        parts in prop::collection::vec((0_usize..8, 0_usize..16, 0_usize..16), 1..12),
        cuts in prop::collection::vec(0_usize..400, 0..8),
    ) {
        let secret = "a%a\\/ab%41a";
        let spellings = spellings(secret);
        let text: String = parts.iter().map(|&(which, from, to)| {
            let spelling = &spellings[which % spellings.len()];
            let (from, to) = (from.min(to).min(spelling.len()), spelling.len() - to.min(spelling.len()));
            spelling.get(from..to.max(from)).unwrap_or_default().to_owned()
        }).collect();
        let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(text.len())).collect();
        cuts.sort_unstable();
        let once = whole(&[secret], text.as_bytes());
        prop_assert_eq!(&cut(&[secret], text.as_bytes(), &cuts), &once);
        // A long text is searched in another way.
        let long = whole(&[secret], &[text.as_bytes(), &[b' '; 5000]].concat());
        prop_assert_eq!(&long[..text.len()], &once);
    }

    #[test]
    fn p34_nothing_that_a_slow_search_finds_is_left(text in "[ab%\\\\2541cu06/]{0,80}", mixed in "(a|%61|\\\\u0061|b|%62|/|\\\\/|%2f){0,40}") {
        for secret in ["aabbaabb", "a/b%a/b%", "%25%25%25", "\\\\\\\\////"] {
            for text in [text.as_bytes(), mixed.as_bytes()] {
                let (fast, slow) = (whole(&[secret], text), slowly(secret, text));
                for (at, (&fast, &slow)) in fast.iter().zip(&slow).enumerate() {
                    prop_assert!(slow != b'*' || fast == b'*', "{} at {at} of {}", secret, String::from_utf8_lossy(text));
                }
            }
        }
    }

    #[test]
    fn p34_a_secret_of_any_bytes_is_masked_in_any_mix_of_escapes(
        secret in prop::collection::vec(any::<u8>(), MIN..40),
        how in prop::collection::vec(0_u8..4, 40),
        (before, behind) in ("[a-z%\\\\]{0,6}", "[a-z%\\\\]{0,6}"),
        at in 0_usize..100,
    ) {
        let mut spelling = Vec::new();
        for (&byte, how) in secret.iter().zip(how) {
            match how {
                1 => spelling.extend(format!("%{byte:02x}").bytes()),
                2 if byte < 0x80 => spelling.extend(format!("\\u{byte:04X}").bytes()),
                _ => spelling.push(byte),
            }
        }
        let text = [before.as_bytes(), &spelling, behind.as_bytes()].concat();
        let mut scrubber = scrubber(&[&secret]);
        let (one, two) = text.split_at(at.min(text.len()));
        let mut out = scrubber.scrub(Bytes::copy_from_slice(one)).to_vec();
        out.extend_from_slice(&scrubber.scrub(Bytes::copy_from_slice(two)));
        out.extend_from_slice(&scrubber.finish());
        prop_assert_eq!(out.len(), text.len());
        prop_assert!(out[before.len()..before.len() + spelling.len()].iter().all(|&byte| byte == b'*'));
    }
}
