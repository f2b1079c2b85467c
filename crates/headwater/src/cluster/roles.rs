//! What a process is for.

use std::collections::BTreeSet;
use std::fmt;

use headwater_catalog::snapshot::nearest;
use serde::{Deserialize, Serialize};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Takes events in.
    Gateway,
    /// Runs continuous queries and sources.
    Processor,
    /// Answers: SQL, views, live queries.
    Query,
    /// Delivers to sinks.
    Sinks,
}

impl Role {
    const ALL: [Self; 4] = [Self::Gateway, Self::Processor, Self::Query, Self::Sinks];

    pub fn name(self) -> &'static str {
        match self {
            Self::Gateway => "gateway",
            Self::Processor => "processor",
            Self::Query => "query",
            Self::Sinks => "sinks",
        }
    }
}

/// The roles of a process, at least one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Roles(BTreeSet<Role>);

impl Roles {
    pub fn all() -> Self {
        Self(Role::ALL.into())
    }

    pub fn has(&self, role: Role) -> bool {
        self.0.contains(&role)
    }

    /// Names with commas between them.
    pub fn parse(text: &str) -> Result<Self, String> {
        let names = text.split(',').map(str::trim).filter(|name| !name.is_empty());
        let role = |name: &str| {
            let found = Role::ALL.into_iter().find(|role| role.name() == name);
            found.ok_or_else(|| match nearest(name, Role::ALL.into_iter().map(Role::name)) {
                Some(role) => format!("there is no role '{name}'; did you mean '{role}'?"),
                None => format!("there is no role '{name}'; there are gateway, processor, query and sinks"),
            })
        };
        let roles: BTreeSet<_> = names.map(role).collect::<Result<_, _>>()?;
        match roles.is_empty() {
            true => Err("expected at least one of gateway, processor, query and sinks".to_owned()),
            false => Ok(Self(roles)),
        }
    }
}

impl fmt::Display for Roles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.0.iter().map(|role| role.name()).collect();
        f.write_str(&names.join(","))
    }
}
