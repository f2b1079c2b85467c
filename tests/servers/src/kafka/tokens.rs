//! Tokens (JWT, signed by RS256) that a broker takes for a user's, as an authorization server would issue them.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

pub(super) const ISSUER: &str = "https://issuer.test";
pub(super) const AUDIENCE: &str = "kafka";
const KEY: &str = "tokens.key";

/// Makes a key to sign by; the answer is the file of the keys that brokers check by (a JWKS).
pub(super) fn make(folder: &Path) -> PathBuf {
    openssl(
        folder,
        &[
            "genpkey",
            "-algorithm",
            "RSA",
            "-pkeyopt",
            "rsa_keygen_bits:2048",
            "-out",
            KEY,
        ],
        b"",
    );
    let modulus = openssl(folder, &["rsa", "-in", KEY, "-noout", "-modulus"], b"");
    let modulus = String::from_utf8_lossy(&modulus).trim().replace("Modulus=", "");
    let digit = |at: usize| u8::from_str_radix(&modulus[at..at + 2], 16).expect("hexadecimal digits");
    let modulus: Vec<u8> = (0..modulus.len()).step_by(2).map(digit).collect();
    let keys = format!(
        r#"{{"keys":[{{"kty":"RSA","use":"sig","alg":"RS256","kid":"tests","n":"{}","e":"AQAB"}}]}}"#,
        base64url(&modulus)
    );
    let file = folder.join("jwks.json");
    std::fs::write(&file, keys).expect("a file in a temporary folder");
    file
}

/// A token that says who somebody is, for so long from now on.
pub(super) fn issue(folder: &Path, user: &str, lifetime: Duration) -> String {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("after 1970")
        .as_secs();
    let until = now + lifetime.as_secs();
    let header = base64url(br#"{"alg":"RS256","typ":"JWT","kid":"tests"}"#);
    let claims = format!(r#"{{"iss":"{ISSUER}","aud":"{AUDIENCE}","sub":"{user}","iat":{now},"exp":{until}}}"#);
    let signed = format!("{header}.{}", base64url(claims.as_bytes()));
    let signature = openssl(folder, &["dgst", "-sha256", "-sign", KEY], signed.as_bytes());
    format!("{signed}.{}", base64url(&signature))
}

/// RFC 4648, section 5, without padding.
pub(super) fn base64url(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut text = String::new();
    for three in bytes.chunks(3) {
        let byte = |at: usize| u32::from(three.get(at).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for digit in 0..=three.len() as u32 {
            text.push(char::from(DIGITS[(bits >> (18 - 6 * digit) & 63) as usize]));
        }
    }
    text
}

fn openssl(folder: &Path, arguments: &[&str], input: &[u8]) -> Vec<u8> {
    let mut command = Command::new("openssl");
    command
        .args(arguments)
        .current_dir(folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    let mut child = command.spawn().expect("openssl, which was there a moment ago");
    let mut stdin = child.stdin.take().expect("piped");
    stdin.write_all(input).expect("openssl reads");
    drop(stdin);
    let done = child.wait_with_output().expect("openssl ends");
    assert!(done.status.success(), "openssl {}", arguments.join(" "));
    done.stdout
}
