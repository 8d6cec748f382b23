//! Mistakes in settings, each with the setting's flag and environment variable. They show no value of a secret.

use std::{collections::HashMap, fmt::Display};

use clap::Command;

#[derive(Debug)]
pub struct Mistakes {
    /// The name of each setting, by its id.
    names: HashMap<String, String>,
    /// At most one of each setting.
    found: Vec<Mistake>,
}

#[derive(Debug)]
struct Mistake {
    setting: String,
    problem: String,
}

impl Mistakes {
    pub fn of(command: &Command) -> Self {
        let name = |arg: &clap::Arg| {
            let id = arg.get_id().to_string();
            let flag = arg.get_long().map_or(id.clone(), |long| format!("--{long}"));
            let name = match arg.get_env() {
                Some(variable) => format!("{flag} ({})", variable.display()),
                None => flag,
            };
            (id, name)
        };
        Self {
            names: command.get_arguments().map(name).collect(),
            found: Vec::new(),
        }
    }

    /// Adds a mistake, unless the setting has one. `setting` is the name of the setting's field.
    pub fn add(&mut self, setting: &str, problem: impl Display) {
        let setting = self.names.get(setting).map_or(setting, String::as_str);
        if self.found.iter().all(|mistake| mistake.setting != setting) {
            self.found.push(Mistake {
                setting: setting.to_owned(),
                problem: problem.to_string(),
            });
        }
    }

    /// Adds a mistake unless `holds`.
    pub fn ensure(&mut self, holds: bool, setting: &str, problem: impl Display) {
        if !holds {
            self.add(setting, problem);
        }
    }

    /// Returns the value of the setting, or adds a mistake.
    pub fn take<T, E: Display>(&mut self, setting: &str, made: Result<T, E>) -> Option<T> {
        made.map_err(|problem| self.add(setting, format_args!("{problem:#}")))
            .ok()
    }

    pub fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    /// One line for each mistake.
    pub(super) fn shown(&self, name: &str) -> String {
        self.found
            .iter()
            .map(|Mistake { setting, problem }| format!("{name}: {setting}: {problem}\n"))
            .collect()
    }
}
