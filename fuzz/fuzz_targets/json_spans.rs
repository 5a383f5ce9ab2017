//! Secret fields in JSON by spans: what is found is where it says, and putting it back changes no byte.
#![no_main]

use keyfold_custody::layout::{
    json::{Edit, Encoded, check, find, splice},
    path::FieldPath,
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let paths: Vec<FieldPath> =
        ["/a", "/*", "/*/*", "", "/nodes/*/password"].into_iter().filter_map(|path| path.parse().ok()).collect();
    let Ok(found) = find(text, &paths) else { return };
    assert!(check(text).is_ok());
    for one in found {
        let raw = text.get(one.span.clone()).expect("the span lies in the text").to_owned();
        assert!(check(&raw).is_ok());
        let same =
            splice(text, vec![Edit { span: one.span, token: Encoded::raw(raw) }]).expect("one edit within the text");
        assert_eq!(same.as_str(), text);
    }
});
