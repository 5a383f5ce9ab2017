//! Wycheproof's vectors against the primitives as the core uses them: the same library calls where they are the library's,
//! our own functions where we put something together.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use base64_simd::URL_SAFE;
use keyfold_core::{
    clock::UnixTime,
    envelope::{
        Reading,
        fernet::{FernetKey, Token, seal_with},
    },
    mac,
    secret::Key32,
};
use wycheproof::{TestResult, aead, cipher, hkdf, mac as macs};

#[test]
fn aes_256_gcm_with_96_bit_nonces_and_full_tags() {
    let set = aead::TestSet::load(aead::TestName::AesGcm).unwrap();
    let mut ran = 0;
    for group in set.test_groups.iter().filter(|g| g.key_size == 256 && g.nonce_size == 96 && g.tag_size == 128) {
        for test in &group.tests {
            let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &test.key).unwrap());
            let nonce = || Nonce::try_assume_unique_for_key(&test.nonce).unwrap();
            let mut out = vec![0; test.ct.len()];
            let opened = key.open_separate_gather(nonce(), Aad::from(&test.aad[..]), &test.ct, &test.tag, &mut out);
            if test.result == TestResult::Invalid {
                assert!(opened.is_err(), "{}: {}", test.tc_id, test.comment);
            } else {
                opened.unwrap();
                assert_eq!(out, test.pt[..], "{}: {}", test.tc_id, test.comment);
                let tag = key.seal_in_place_separate_tag(nonce(), Aad::from(&test.aad[..]), &mut out).unwrap();
                assert_eq!((&out[..], tag.as_ref()), (&test.ct[..], &test.tag[..]), "{}: {}", test.tc_id, test.comment);
            }
            ran += 1;
        }
    }
    assert!(ran > 50, "{ran} tests only");
}

#[test]
fn hmac_sha_256_as_put_together_here() {
    let set = macs::TestSet::load(macs::TestName::HmacSha256).unwrap();
    let mut ran = 0;
    for group in &set.test_groups {
        for test in &group.tests {
            let ours = mac::hmac(&test.key, &[&test.msg]);
            let same = ours[..group.tag_size / 8] == test.tag[..];
            assert_eq!(same, test.result != TestResult::Invalid, "{}: {}", test.tc_id, test.comment);
            let (head, tail) = test.msg.split_at(test.msg.len() / 3);
            assert_eq!(mac::hmac(&test.key, &[head, &[], tail]), ours, "{}: in parts", test.tc_id);
            ran += 1;
        }
    }
    assert!(ran > 100, "{ran} tests only");
}

/// The whole of HKDF, with our Expand for its first block. Our formats use that block alone.
fn hkdf_sha_256(test: &hkdf::Test) -> Vec<u8> {
    let key = mac::hmac(&test.salt, &[&test.ikm]);
    let mut block = mac::expand(&key, b"", &[&test.info]);
    let mut out = block.to_vec();
    for counter in 2..=u8::MAX {
        if out.len() >= test.size {
            break;
        }
        block = mac::hmac(&key, &[&block, &test.info, &[counter]]);
        out.extend_from_slice(&block);
    }
    out.truncate(test.size);
    out
}

#[test]
fn hkdf_expand_sha_256_as_put_together_here() {
    let set = hkdf::TestSet::load(hkdf::TestName::HkdfSha256).unwrap();
    let mut ran = 0;
    for group in &set.test_groups {
        for test in group.tests.iter().filter(|test| test.size <= 255 * 32) {
            let same = hkdf_sha_256(test) == test.okm[..];
            assert_eq!(same, test.result != TestResult::Invalid, "{}: {}", test.tc_id, test.comment);
            let (head, tail) = test.info.split_at(test.info.len() / 2);
            let key = mac::hmac(&test.salt, &[&test.ikm]);
            assert_eq!(mac::expand(&key, head, &[tail]), mac::expand(&key, b"", &[&test.info]), "{}", test.tc_id);
            ran += 1;
        }
    }
    assert!(ran > 50, "{ran} tests only");
}

#[test]
fn aes_128_cbc_with_pkcs7_padding_as_fernet_uses_it() {
    let set = cipher::TestSet::load(cipher::TestName::AesCbcPkcs5).unwrap();
    let mut ran = 0;
    for group in set.test_groups.iter().filter(|group| group.key_size == 128) {
        for test in &group.tests {
            // The vector's key is the encrypting half; the signing half is ours, so that every ciphertext gets a right tag.
            let mut raw = [0x5a; 32];
            raw[16..].copy_from_slice(&test.key);
            let key = FernetKey::new(Key32::new(raw)).unwrap();
            let iv: [u8; 16] = test.nonce[..].try_into().unwrap();
            let mut token = [&[0x80][..], &[0; 8], &iv, &test.ct[..]].concat();
            token.extend_from_slice(&mac::hmac(&raw[..16], &[&token]));
            let opened = Token::parse(&URL_SAFE.encode_to_string(&token), Reading::Strict);
            let opened = opened.and_then(|token| token.open(&key, None));
            if test.result == TestResult::Invalid {
                assert!(opened.is_err(), "{}: {}", test.tc_id, test.comment);
            } else {
                assert_eq!(opened.unwrap().unwrap().expose(), &test.pt[..], "{}: {}", test.tc_id, test.comment);
                let sealed = seal_with(&key, &test.pt, UnixTime(0), iv).unwrap();
                assert_eq!(sealed, URL_SAFE.encode_to_string(&token), "{}: {}", test.tc_id, test.comment);
            }
            ran += 1;
        }
    }
    assert!(ran > 40, "{ran} tests only");
}
