//! `[sessions]` in `keyfold.toml`: who signs people in, and how long that lasts. Every mistake is reported, before a port is bound.

use std::time::Duration;

use jsonwebtoken::Algorithm;
use keyfold_core::envelope::Format;
use keyfold_custody::{
    config::{Mistake, duration},
    sessions::Rules,
};
use toml::{Table, Value};

use crate::settings::safe;

/// What the table says.
#[derive(Debug, Clone, Default)]
pub struct SessionSettings {
    /// Who signs people in. Without one there are no sessions.
    pub issuers: Vec<IssuerSettings>,
    /// What holds for every session.
    pub rules: Rules,
    /// The issuer that `/auth/login` leads to, and where it leads back to.
    pub sign_in: Option<SignIn>,
}

/// Signing in without a frontend.
#[derive(Debug, Clone)]
pub struct SignIn {
    /// The issuer, by name.
    pub issuer: String,
    /// The service as browsers reach it, without a slash at the end.
    pub public_url: String,
    /// What is asked for.
    pub scopes: Vec<String>,
}

/// How access tokens are looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Access {
    /// Google's tokeninfo, at this URL.
    TokenInfo(String),
    /// RFC 7662, at this URL, or where discovery says.
    Introspection(Option<String>),
}

/// A secret, named and not written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SecretAt {
    /// A variable of the environment.
    Env(String),
    /// A file.
    File(std::path::PathBuf),
}

/// Somebody who signs people in.
#[derive(Debug, Clone)]
pub struct IssuerSettings {
    /// What requests and events call it.
    pub name: String,
    /// The claim `iss`, and where discovery starts.
    pub issuer: String,
    /// Other spellings of the claim that mean the same.
    pub aliases: Vec<String>,
    /// Us, as the issuer knows us.
    pub client_id: String,
    /// Other clients whose tokens are taken: the frontend's own.
    pub audiences: Vec<String>,
    /// What proves that it is us.
    pub client_secret: Option<SecretAt>,
    /// How access tokens are looked at.
    pub access: Access,
    /// The scopes that an access token must have.
    pub scopes: Vec<String>,
    /// How ID tokens may be signed.
    pub algorithms: Vec<Algorithm>,
    /// How long an access token must last at least.
    pub min_left: Duration,
    /// Whether refresh tokens are taken.
    pub refresh: bool,
    /// Where tokens are narrowed (RFC 8693); the token endpoint where not given.
    pub exchange: Option<String>,
}

impl SessionSettings {
    /// Reads the table.
    ///
    /// # Errors
    /// Every mistake.
    pub fn parse(table: &Table) -> Result<Self, Vec<Mistake>> {
        let mut reader = Reader::default();
        let settings = reader.settings(table);
        if reader.0.is_empty() { Ok(settings) } else { Err(reader.0) }
    }

    /// Whether there are sessions at all.
    #[must_use]
    pub fn is_on(&self) -> bool {
        !self.issuers.is_empty()
    }
}

#[derive(Default)]
struct Reader(Vec<Mistake>);

/// Google, as its documentation describes it.
const GOOGLE: &str = "https://accounts.google.com";
const GOOGLE_TOKENINFO: &str = "https://oauth2.googleapis.com/tokeninfo";

const ISSUER_KEYS: [&str; 14] = [
    "name",
    "preset",
    "issuer",
    "client_id",
    "audiences",
    "client_secret",
    "access",
    "tokeninfo",
    "introspection",
    "scopes",
    "algorithms",
    "min_left",
    "refresh",
    "exchange",
];

impl Reader {
    fn wrong(&mut self, place: &str, what: impl Into<String>) {
        self.0.push(Mistake { place: place.into(), what: what.into() });
    }

    fn unknown(&mut self, table: &Table, place: &str, known: &[&str]) {
        for key in table.keys().filter(|key| !known.contains(&key.as_str())) {
            self.wrong(&format!("{place}.{key}"), format!("unknown key; known here: {}", known.join(", ")));
        }
    }

    fn text(&mut self, table: &Table, place: &str, key: &str) -> Option<String> {
        let value = table.get(key)?;
        if !value.is_str() {
            self.wrong(&format!("{place}.{key}"), "must be a string");
        }
        value.as_str().map(str::to_owned)
    }

    fn texts(&mut self, table: &Table, place: &str, key: &str) -> Option<Vec<String>> {
        match table.get(key)? {
            Value::Array(listed) if listed.iter().all(Value::is_str) => {
                Some(listed.iter().filter_map(Value::as_str).map(str::to_owned).collect())
            }
            _ => {
                self.wrong(&format!("{place}.{key}"), "must be a list of strings");
                None
            }
        }
    }

    fn time(&mut self, table: &Table, place: &str, key: &str) -> Option<Duration> {
        let text = self.text(table, place, key)?;
        let time = duration(&text);
        if time.is_none() {
            self.wrong(&format!("{place}.{key}"), "must be a time such as 12h, 30m or 45s");
        }
        time
    }

    fn url(&mut self, table: &Table, place: &str, key: &str) -> Option<String> {
        let url = self.text(table, place, key)?;
        if !safe(&url) || url.contains(['@', '#']) {
            self.wrong(&format!("{place}.{key}"), "must be an https URL");
        }
        Some(url)
    }

    fn switch(&mut self, table: &Table, place: &str, key: &str) -> bool {
        match table.get(key) {
            None => false,
            Some(Value::Boolean(on)) => *on,
            Some(_) => {
                self.wrong(&format!("{place}.{key}"), "must be true or false");
                false
            }
        }
    }

    fn settings(&mut self, table: &Table) -> SessionSettings {
        let place = "sessions";
        self.unknown(table, place, &["life", "format", "auto_sre", "sign_in", "issuers"]);
        let mut settings = SessionSettings::default();
        if let Some(life) = self.time(table, place, "life") {
            settings.rules.life = life;
        }
        match self.text(table, place, "format").as_deref() {
            None | Some("kf1") => {}
            Some("fernet") => settings.rules.format = Format::Fernet,
            Some(_) => self.wrong("sessions.format", "must be \"kf1\" or \"fernet\""),
        }
        settings.rules.auto_sre = self.switch(table, place, "auto_sre");
        match table.get("issuers") {
            None => {}
            Some(Value::Array(listed)) => {
                for (i, value) in listed.iter().enumerate() {
                    let place = format!("sessions.issuers[{i}]");
                    let Some(table) = value.as_table() else {
                        self.wrong(&place, "must be a table");
                        continue;
                    };
                    let Some(issuer) = self.issuer(table, &place) else { continue };
                    if settings.issuers.iter().any(|other| other.name == issuer.name) {
                        self.wrong(&format!("{place}.name"), "is the name of another issuer");
                    }
                    settings.issuers.push(issuer);
                }
            }
            Some(_) => self.wrong("sessions.issuers", "must be a list of tables, [[sessions.issuers]]"),
        }
        match table.get("sign_in") {
            None => {}
            Some(Value::Table(table)) => settings.sign_in = self.sign_in(table, &settings.issuers),
            Some(_) => self.wrong("sessions.sign_in", "must be a table, [sessions.sign_in]"),
        }
        settings
    }

    fn sign_in(&mut self, table: &Table, issuers: &[IssuerSettings]) -> Option<SignIn> {
        let place = "sessions.sign_in";
        self.unknown(table, place, &["issuer", "public_url", "scopes"]);
        let issuer = self.text(table, place, "issuer").or_else(|| match issuers {
            [only] => Some(only.name.clone()),
            _ => None,
        });
        match &issuer {
            Some(issuer) if issuers.iter().any(|known| known.name == *issuer) => {}
            _ => self.wrong(&format!("{place}.issuer"), "must name one of [[sessions.issuers]]"),
        }
        let url = self.url(table, place, "public_url");
        if url.is_none() {
            self.wrong(&format!("{place}.public_url"), "must be given, for example \"https://keyfold.example\"");
        }
        let scopes = self.texts(table, place, "scopes").unwrap_or_else(|| vec!["openid".into(), "email".into()]);
        if !scopes.iter().any(|scope| scope == "openid") {
            self.wrong(&format!("{place}.scopes"), "must have \"openid\": without it no ID token says who signed in");
        }
        Some(SignIn { issuer: issuer?, public_url: url?.trim_end_matches('/').to_owned(), scopes })
    }

    fn issuer(&mut self, table: &Table, place: &str) -> Option<IssuerSettings> {
        let before = self.0.len();
        self.unknown(table, place, &ISSUER_KEYS);
        let google = match self.text(table, place, "preset").as_deref() {
            None => false,
            Some("google") => true,
            Some(_) => {
                self.wrong(&format!("{place}.preset"), "must be \"google\"");
                false
            }
        };
        let given = |url: &str| google.then(|| url.to_owned());
        let issuer = self.url(table, place, "issuer").or_else(|| given(GOOGLE));
        let client_id = self.text(table, place, "client_id").filter(|id| !id.is_empty());
        if issuer.is_none() {
            self.wrong(&format!("{place}.issuer"), "must be given, or preset = \"google\"");
        }
        if client_id.is_none() {
            self.wrong(&format!("{place}.client_id"), "must be given: tokens of other clients are not taken");
        }
        let name = self.text(table, place, "name").or_else(|| given("google"));
        let fits = |name: &String| {
            (1..=64).contains(&name.len())
                && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
        };
        if !name.as_ref().is_some_and(fits) {
            self.wrong(&format!("{place}.name"), "must be given: letters, digits, `-`, `_` and `.`");
        }
        let access = self.access(table, place, google);
        let client_secret = self.text(table, place, "client_secret").and_then(|text| match text.split_once(':') {
            Some(("env", variable)) if !variable.is_empty() => Some(SecretAt::Env(variable.into())),
            Some(("file", path)) if !path.is_empty() => Some(SecretAt::File(path.into())),
            _ => {
                // What stands there is not repeated: it may be the secret.
                self.wrong(
                    &format!("{place}.client_secret"),
                    "must be \"env:NAME\" or \"file:PATH\", never the secret itself",
                );
                None
            }
        });
        let algorithms = self.algorithms(table, place);
        let refresh = self.switch(table, place, "refresh");
        let settings = IssuerSettings {
            aliases: if google { vec!["accounts.google.com".into()] } else { Vec::new() },
            audiences: self.texts(table, place, "audiences").unwrap_or_default(),
            client_secret,
            scopes: self.texts(table, place, "scopes").unwrap_or_default(),
            min_left: self.time(table, place, "min_left").unwrap_or(Duration::from_secs(30)),
            exchange: self.url(table, place, "exchange"),
            refresh,
            algorithms,
            name: name.unwrap_or_default(),
            issuer: issuer.unwrap_or_default(),
            client_id: client_id.unwrap_or_default(),
            access: access.unwrap_or(Access::Introspection(None)),
        };
        (self.0.len() == before).then_some(settings)
    }

    fn access(&mut self, table: &Table, place: &str, google: bool) -> Option<Access> {
        let tokeninfo = self.url(table, place, "tokeninfo").or_else(|| google.then(|| GOOGLE_TOKENINFO.to_owned()));
        let introspection = self.url(table, place, "introspection");
        let how = self.text(table, place, "access");
        match (how.as_deref(), tokeninfo, introspection) {
            (None | Some("tokeninfo"), Some(url), None) => Some(Access::TokenInfo(url)),
            (Some("tokeninfo"), None, _) => {
                self.wrong(&format!("{place}.tokeninfo"), "must be given for access = \"tokeninfo\"");
                None
            }
            (Some("introspection"), _, url) | (None, None, url @ Some(_)) => Some(Access::Introspection(url)),
            (None, Some(_), Some(_)) => {
                self.wrong(&format!("{place}.access"), "must say which: \"tokeninfo\" or \"introspection\"");
                None
            }
            (Some("tokeninfo"), Some(url), Some(_)) => Some(Access::TokenInfo(url)),
            _ => {
                self.wrong(
                    &format!("{place}.access"),
                    "must be \"tokeninfo\" (with its URL) or \"introspection\": an access token is never taken unverified",
                );
                None
            }
        }
    }

    fn algorithms(&mut self, table: &Table, place: &str) -> Vec<Algorithm> {
        let Some(listed) = self.texts(table, place, "algorithms") else {
            return vec![Algorithm::RS256, Algorithm::ES256];
        };
        let mut algorithms = Vec::new();
        for (i, name) in listed.iter().enumerate() {
            match name.parse::<Algorithm>() {
                // A shared secret proves nothing about who signed, and `none` does not even parse.
                Ok(Algorithm::HS256 | Algorithm::HS384 | Algorithm::HS512) | Err(_) => self.wrong(
                    &format!("{place}.algorithms[{i}]"),
                    "must be a signature: RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384 or EdDSA",
                ),
                Ok(algorithm) => algorithms.push(algorithm),
            }
        }
        if listed.is_empty() {
            self.wrong(&format!("{place}.algorithms"), "list at least one");
        }
        algorithms
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<SessionSettings, Vec<Mistake>> {
        SessionSettings::parse(&text.parse().unwrap())
    }

    #[test]
    fn google_needs_a_client_id_and_nothing_else() {
        let settings = parse("[[issuers]]\npreset = \"google\"\nclient_id = \"x.apps.googleusercontent.com\"").unwrap();
        let google = &settings.issuers[0];
        assert_eq!((google.name.as_str(), google.issuer.as_str()), ("google", GOOGLE));
        assert_eq!(google.access, Access::TokenInfo(GOOGLE_TOKENINFO.into()));
        assert!(!google.refresh && settings.is_on());
        assert!(!parse("").unwrap().is_on());
    }

    #[test]
    fn every_mistake_is_said_with_its_place() {
        let mistakes = parse(
            "life = \"long\"\nformat = \"v1\"\nauto_sre = \"yes\"\ncolour = 1\n[sign_in]\nissuer = \"b\"\nscopes = [\"email\"]\n[[issuers]]\nname = \"a b\"\n\
             issuer = \"http://evil\"\nalgorithms = [\"none\", \"HS256\"]\nclient_secret = \"hunter2hunter2\"\nrefresh = 1\n\
             [[issuers]]\npreset = \"gogle\"\nclient_id = \"x\"\naccess = \"faith\"",
        )
        .unwrap_err();
        let all = mistakes.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
        for says in [
            "sessions.life: must be a time",
            "sessions.format: must be",
            "sessions.auto_sre: must be true or false",
            "sessions.colour: unknown key",
            "sessions.sign_in.issuer: must name",
            "sessions.sign_in.public_url: must be given",
            "sessions.sign_in.scopes: must have",
            "sessions.issuers[0].name: must be given",
            "sessions.issuers[0].issuer: must be an https URL",
            "sessions.issuers[0].client_id: must be given",
            "sessions.issuers[0].algorithms[0]: must be a signature",
            "sessions.issuers[0].algorithms[1]: must be a signature",
            "sessions.issuers[0].client_secret: must be",
            "sessions.issuers[0].refresh: must be",
            "sessions.issuers[0].access: must be",
            "sessions.issuers[1].preset: must be",
            "sessions.issuers[1].access: must be",
        ] {
            assert!(all.contains(says), "{says}\n---\n{all}");
        }
        assert!(!all.contains("hunter2"));
    }
}
