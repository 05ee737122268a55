//! Whether an HTTP endpoint can be used.

use crate::config::BridgeConfig;
use crate::config::http::{
    HttpAuthentication, HttpEndpoint, HttpListen, HttpTarget, HttpTargetAuthentication, HttpUrl, RateLimit, webhook_key,
};
use crate::pem;
use crate::secret::Secret;

use super::{ProblemKind, Problems, check_tls};

/// Ports of the pod that are taken: its admin port.
const ADMIN_PORT: u16 = 8080;
/// Bodies are held in memory until the mesh has stored them, and no mesh takes larger events.
const LARGEST_BODY: u32 = 64 * 1024 * 1024;
/// Headers that the bridge writes itself, or that belong to one connection.
const OWN_HEADERS: [&str; 13] = [
    "host",
    "content-length",
    "content-type",
    "transfer-encoding",
    "connection",
    "keep-alive",
    "te",
    "trailer",
    "upgrade",
    "expect",
    "webhook-id",
    "webhook-timestamp",
    "webhook-signature",
];

pub(super) fn check(http: &HttpEndpoint, config: &BridgeConfig, problems: &mut Problems) {
    match http {
        HttpEndpoint::Listen(listen) => {
            check_listen(listen, problems);
            problems.require(
                config.outbound.is_empty(),
                "outbound",
                "an HTTP listener has inbound routes only; make another Bridge with a target",
            );
            for (index, route) in config.inbound.iter().enumerate() {
                problems.require(
                    route.from.starts_with('/'),
                    format!("inbound[{index}].from"),
                    format_args!("`{}` is no path; begin with a slash", route.from),
                );
            }
        }
        HttpEndpoint::Target(target) => {
            check_target(target, problems);
            problems.require(
                config.inbound.is_empty(),
                "inbound",
                "an HTTP target has outbound routes only; make another Bridge with a listener",
            );
        }
    }
}

fn check_listen(listen: &HttpListen, problems: &mut Problems) {
    let field = |name: &str| format!("endpoint.http.listen.{name}");
    problems.require(
        listen.port >= 1024 && listen.port != ADMIN_PORT,
        field("port"),
        format_args!("must be from 1024 to 65535, and not {ADMIN_PORT}, where the bridge tells how it is"),
    );
    problems.require(
        (1..=LARGEST_BODY).contains(&listen.max_body_bytes),
        field("maxBodyBytes"),
        format_args!("must be from 1 to {LARGEST_BODY}"),
    );
    problems.require(
        (100..=60_000).contains(&listen.answer_within_ms),
        field("answerWithinMs"),
        "must be from 100 to 60000",
    );
    check_rate(listen.rate_limit, &field("rateLimit"), problems);
    if let Some(tls) = &listen.tls {
        let mut pem = |name: &str, judged: Result<(), String>| {
            if let Err(problem) = judged {
                problems.add(ProblemKind::Value, field(&format!("tls.{name}")), problem);
            }
        };
        pem("certPem", pem::certificates(&tls.cert_pem));
        pem("keyPem", pem::private_key(tls.key_pem.expose()));
        pem("clientCaPem", tls.client_ca_pem.as_deref().map_or(Ok(()), pem::certificates));
    }
    check_authentication(&listen.authentication, &field("authentication"), problems);
}

fn check_authentication(authentication: &HttpAuthentication, field: &str, problems: &mut Problems) {
    let mut each = |kind: &str, name: &str, secrets: &[Secret], judge: fn(&Secret) -> Result<(), &'static str>| {
        let field = format!("{field}.{kind}.{name}");
        problems.require(!secrets.is_empty(), &field, "must hold at least one value");
        for (index, problem) in secrets.iter().enumerate().filter_map(|(index, one)| Some((index, judge(one).err()?))) {
            problems.add(ProblemKind::Value, format!("{field}[{index}]"), problem);
        }
    };
    match authentication {
        HttpAuthentication::None {} => {}
        HttpAuthentication::Bearer { tokens } => each("bearer", "tokens", tokens, token),
        HttpAuthentication::Basic { username, passwords } => {
            each("basic", "passwords", passwords, not_empty);
            check_user(username, &format!("{field}.basic.username"), problems);
        }
        HttpAuthentication::StandardWebhooks { secrets } => {
            each("standardWebhooks", "secrets", secrets, |secret| webhook_key(secret).map(drop));
        }
        HttpAuthentication::Github { secrets } => each("github", "secrets", secrets, not_empty),
    }
}

fn check_user(username: &str, field: &str, problems: &mut Problems) {
    problems.require(
        !username.is_empty() && !username.contains(':') && !username.contains(char::is_control),
        field,
        "must not be empty, and must not contain `:` or control characters",
    );
}

fn not_empty(secret: &Secret) -> Result<(), &'static str> {
    if secret.expose().is_empty() { Err("must not be empty") } else { Ok(()) }
}

/// RFC 6750, section 2.1.
fn token(secret: &Secret) -> Result<(), &'static str> {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~+/=".contains(&byte);
    if !secret.expose().is_empty() && secret.expose().bytes().all(good) {
        return Ok(());
    }
    Err("must be a token of letters, digits and -._~+/= only; a line end does not belong to it")
}

fn check_target(target: &HttpTarget, problems: &mut Problems) {
    let field = |name: &str| format!("endpoint.http.target.{name}");
    match HttpUrl::parse(&target.url) {
        Err(problem) => problems.add(ProblemKind::Value, field("url"), problem),
        Ok(url) => check_tls("endpoint.http.target", target.tls.as_ref(), url.tls, "https://", problems),
    }
    problems.require((100..=600_000).contains(&target.timeout_ms), field("timeoutMs"), "must be from 100 to 600000");
    problems.require(
        (1..=10_000).contains(&target.max_concurrency),
        field("maxConcurrency"),
        "must be from 1 to 10000",
    );
    check_rate(target.rate_limit, &field("rateLimit"), problems);
    match &target.authentication {
        None => {}
        Some(HttpTargetAuthentication::Bearer { token: secret }) => {
            if let Err(problem) = token(secret) {
                problems.add(ProblemKind::Value, field("authentication.bearer.token"), problem);
            }
        }
        Some(HttpTargetAuthentication::Basic { username, password: _ }) => {
            check_user(username, &field("authentication.basic.username"), problems);
        }
    }
    for (index, secret) in target.signing_secrets.iter().enumerate() {
        if let Err(problem) = webhook_key(secret) {
            problems.add(ProblemKind::Value, field(&format!("signingSecrets[{index}]")), problem);
        }
    }
    for (name, value) in &target.headers {
        check_header(name, value, target.authentication.is_some(), &field("headers"), problems);
    }
}

fn check_header(name: &str, value: &Secret, authenticated: bool, field: &str, problems: &mut Problems) {
    let lower = name.to_ascii_lowercase();
    let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    problems.require(
        !name.is_empty() && name.bytes().all(token),
        field,
        format_args!("`{name}` is not the name of a header"),
    );
    let own = OWN_HEADERS.contains(&lower.as_str()) || lower.starts_with("ce-") || lower.starts_with("em-");
    problems.require(!own, field, format_args!("`{name}` is written by the bridge itself"));
    problems.require(
        !(authenticated && lower == "authorization"),
        field,
        "must not hold Authorization beside `authentication`",
    );
    problems.require(
        value.expose().bytes().all(|byte| (b' '..=b'~').contains(&byte)),
        field,
        format_args!(
            "the value of `{name}` has a character that a header can not hold; a line end does not belong to it"
        ),
    );
}

fn check_rate(rate: Option<RateLimit>, field: &str, problems: &mut Problems) {
    let Some(rate) = rate else { return };
    problems.require(rate.per_second > 0 && rate.burst > 0, field, "perSecond and burst must be greater than 0");
}
