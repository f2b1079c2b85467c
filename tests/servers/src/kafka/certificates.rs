//! Certificates of a broker, of those that come to it, and of somebody else.

use std::path::Path;
use std::process::{Command, Stdio};

/// Who a client with the certificate in `client.pem` is to the broker.
pub(super) const CLIENT: &str = "CN=river";

/// Makes, in the folder: `ca.pem`, what all but `other.pem` is checked against; `broker.pem` and `expired.pem`, with the broker's key before the
/// certificate; `client.pem` and `client.key`; and `other.pem`, another authority.
pub(super) fn make(folder: &Path) {
    authority(folder, "ca");
    authority(folder, "other");
    request(folder, "broker", "/CN=localhost");
    request(folder, "client", "/CN=river");
    sign(folder, "broker", "broker.crt", "3650");
    sign(folder, "broker", "expired.crt", "0");
    sign(folder, "client", "client.pem", "3650");
    let text = |name: &str| std::fs::read_to_string(folder.join(name)).expect("a file that was just made");
    for name in ["broker", "expired"] {
        let both = text("broker.key") + &text(&format!("{name}.crt"));
        std::fs::write(folder.join(format!("{name}.pem")), both).expect("a file in a temporary folder");
    }
}

const NEW_KEY: [&str; 5] = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"];

fn authority(folder: &Path, name: &str) {
    let (key, certificate) = (format!("{name}.key"), format!("{name}.pem"));
    let written = [
        "-subj",
        "/CN=tests",
        "-days",
        "3650",
        "-keyout",
        &key,
        "-out",
        &certificate,
    ];
    openssl(folder, &[&["req", "-x509"], &NEW_KEY[..], &written].concat());
}

fn request(folder: &Path, name: &str, subject: &str) {
    let (key, request) = (format!("{name}.key"), format!("{name}.csr"));
    let names = ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"];
    let written = ["-subj", subject, "-keyout", &key, "-out", &request];
    openssl(folder, &[&["req"], &NEW_KEY[..], &names, &written].concat());
}

fn sign(folder: &Path, name: &str, certificate: &str, days: &str) {
    let request = format!("{name}.csr");
    let by = ["-CA", "ca.pem", "-CAkey", "ca.key", "-copy_extensions", "copy"];
    let written = ["-in", &request, "-days", days, "-out", certificate];
    openssl(folder, &[&["x509", "-req"], &by[..], &written].concat());
}

fn openssl(folder: &Path, arguments: &[&str]) {
    let done = Command::new("openssl")
        .args(arguments)
        .current_dir(folder)
        .stdin(Stdio::null())
        .output();
    let done = done.expect("openssl, which was there a moment ago");
    let why = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "openssl {}: {why}", arguments.join(" "));
}
