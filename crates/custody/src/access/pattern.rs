//! Patterns in grants: a text in which `*` stands for anything, the empty text too.

/// A compiled pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern {
    text: Box<str>,
    stars: bool,
}

impl Pattern {
    /// Any text is a pattern.
    #[must_use]
    pub fn new(text: &str) -> Self {
        Self { text: text.into(), stars: text.contains('*') }
    }

    /// As it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether the whole of `text` matches. Takes time proportional to the two lengths' product at worst, and both are bounded.
    #[must_use]
    pub fn matches(&self, text: &str) -> bool {
        if !self.stars {
            return *self.text == *text;
        }
        let mut parts = self.text.split('*');
        let first = parts.next().unwrap_or("");
        let Some(mut rest) = text.strip_prefix(first) else { return false };
        let mut last = None;
        for part in parts {
            if let Some(part) = last.replace(part) {
                // The leftmost place leaves most room for what follows.
                let Some(at) = rest.find(part) else { return false };
                rest = &rest[at + part.len()..];
            }
        }
        last.is_none_or(|last| rest.ends_with(last))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_anything_and_the_rest_for_itself() {
        for (pattern, text, matches) in [
            ("a", "a", true),
            ("a", "ab", false),
            ("*", "", true),
            ("redis-*", "redis-1", true),
            ("redis-*", "xredis-1", false),
            ("*-1", "redis-1", true),
            ("*-1", "redis-12", false),
            ("a*b*c", "a1b2c", true),
            ("a*b*c", "abc", true),
            ("a*b*c", "acb", false),
            ("a*a", "a", false),
            ("*a*a*", "aba", true),
            ("ab*bc", "abc", false),
        ] {
            assert_eq!(Pattern::new(pattern).matches(text), matches, "{pattern} {text}");
        }
    }
}
