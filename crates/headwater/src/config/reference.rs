//! `${env:NAME}` and `${file:/path}` in values: how a secret gets in without standing in a file
//! that is kept in version control. Messages here never contain what a reference stands for.

/// The text with every reference replaced by what it refers to.
pub fn resolve(text: &str, environment: &[(String, String)]) -> Result<String, String> {
    let mut resolved = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("${") {
        let (reference, after) = after
            .split_once('}')
            .ok_or("a reference begins with '${' and ends with '}'")?;
        resolved.push_str(before);
        resolved.push_str(&value_of(reference, environment)?);
        rest = after;
    }
    resolved.push_str(rest);
    Ok(resolved)
}

fn value_of(reference: &str, environment: &[(String, String)]) -> Result<String, String> {
    match reference.split_once(':') {
        Some(("env", name)) => {
            let found = environment.iter().find(|(known, _)| known == name);
            let value = found.map(|(_, value)| value.clone());
            value.ok_or_else(|| format!("the environment variable {name} is not set"))
        }
        Some(("file", path)) => {
            let content = std::fs::read_to_string(path).map_err(|error| format!("can't read {path}: {error}"))?;
            // Editors and `echo` end a file with a newline that is no part of the secret.
            Ok(content.trim_end_matches(['\r', '\n']).to_owned())
        }
        _ => Err("references are ${env:NAME} and ${file:/path}".to_owned()),
    }
}
