//! The proxy where nobody signs in: secrets of the deployment, and no sessions.

use serde_json::json;

use super::{
    common::{
        authority::Authority,
        served::{Served, folder},
    },
    upstream::Upstream,
};

#[test]
fn without_issuers_destinations_with_a_secret_are_served_and_the_others_refuse() {
    let authority = Authority::new();
    let up = Upstream::start(&authority, &["keyed.test", "users.test"], &["h2", "http/1.1"]);
    let place = folder("");
    let roots = place.path().join("roots.pem");
    std::fs::write(&roots, authority.0.pem()).unwrap();
    let destination = |name: &str, more: &str| {
        format!(
            "[destinations.{name}]\nhost = \"{name}.test\"\nport = {}\naddress = \"127.0.0.1\"\nprivate = true\nroots = \"{}\"\n{more}",
            up.port(),
            roots.display()
        )
    };
    let keyed = "secret = \"keys/one#/key\"\ninject = { header = \"x-key\" }\nlisten = \"http://127.0.0.1:0\"\n";
    let config =
        [destination("keyed", keyed), destination("users", ""), "[collections.keys]\nfields = [\"/key\"]\n".into()];
    std::fs::write(place.path().join("data/keyfold.toml"), config.concat()).unwrap();
    let served = Served::start(place, &["--proxy-listen", "127.0.0.1:0"]);
    assert!(served.stderr().contains("no issuer is configured"), "{}", served.stderr());
    served.put("/v1/collections/keys/records/one", json!({ "key": "the-deployments-own-key" })).is(201);
    let agent = served.token_of("agent:triage");
    let proxy = served.proxy.clone().unwrap();
    let at = |name: &str| format!("{proxy}/proxy/{name}.test:{}/who", up.port());
    let ask = |url: &str, handle: Option<&str>| {
        let request = served.client().get(url).header("keyfold-token", &agent);
        served.send(match handle {
            Some(handle) => request.header("keyfold-session", handle),
            None => request,
        })
    };
    for url in [at("keyed"), format!("{}/who", served.mapped["keyed"].as_str().unwrap())] {
        assert_eq!(ask(&url, None).status, 200, "{url}");
        assert_eq!(up.one().all("x-key"), ["the-deployments-own-key"], "{url}");
    }
    ask(&at("users"), None).fails(401, "no_user_token");
    ask(&at("keyed"), Some("kfh_made-up")).fails(401, "session_unknown");
    served.send(served.client().get(at("keyed"))).fails(401, "unauthenticated");
    assert!(up.nothing());
    // And nobody signs in.
    served.post("/v1/sessions", json!({ "access_token": "x" })).fails(404, "not_found");
    // It ends in peace, and starts again.
    let served = Served::start(served.stop(), &["--proxy-listen", "127.0.0.1:0"]);
    assert_eq!(served.get("/v1/audit/verify").is(200)["verdict"], "ok");
}
