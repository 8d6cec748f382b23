//! Reads arguments and environment with clap. After a wrong value it continues, to find all wrong values.

use std::ffi::OsString;

use clap::{
    Arg, ArgMatches, Command, Error,
    builder::{OsStr, OsStringValueParser, Resettable},
    error::{ContextKind, ContextValue, ErrorKind},
    parser::ValueSource,
};

use super::Mistakes;

const EMPTY: &str = "must not be empty; unset it for the default";

/// `None`: some values cannot be read, and were added to the mistakes. Empty values are added to them, too.
pub(super) fn matches(
    mut command: Command,
    args: &[OsString],
    mistakes: &mut Mistakes,
) -> Result<Option<ArgMatches>, Error> {
    let mut wrong: Vec<String> = Vec::new();
    loop {
        let error = match command.clone().try_get_matches_from(args) {
            Ok(matches) => {
                for id in empty_settings(&command, &matches) {
                    mistakes.add(&id, EMPTY);
                }
                return Ok(wrong.is_empty().then_some(matches));
            }
            Err(error) => error,
        };
        match wrong_setting(&command, &error).filter(|id| !wrong.contains(id)) {
            Some(id) => {
                mistakes.add(&id, problem(&error));
                // Any value is accepted now, so that clap finds the next mistake.
                command = command.mut_args(|arg| match arg.get_id() == id.as_str() {
                    true => arg.value_parser(OsStringValueParser::new()),
                    false => arg,
                });
                wrong.push(id);
            }
            // Do not show an error that could be caused by the first mistakes.
            None if !wrong.is_empty() && error.use_stderr() => return Ok(None),
            None => return Err(as_typed(command, args, error)),
        }
    }
}

/// The settings with an empty value, which is never meant: a variable in a file of settings is left without its value.
fn empty_settings<'a>(command: &'a Command, matches: &'a ArgMatches) -> impl Iterator<Item = String> + 'a {
    let is_set = move |id: &str| {
        let source = matches.value_source(id);
        matches!(source, Some(ValueSource::CommandLine | ValueSource::EnvVariable))
    };
    let is_empty = move |arg: &&Arg| {
        let id = arg.get_id().as_str();
        // The default of a password is an empty one.
        let may_be_empty = arg.get_default_values().iter().any(|default| default.is_empty());
        let values = matches.try_get_raw(id).ok().flatten();
        !may_be_empty
            && is_set(id)
            && values.is_some_and(|mut values| values.len() == 1 && values.all(|value| value.is_empty()))
    };
    let settings = command.get_arguments().filter(|arg| arg.get_long().is_some());
    settings.filter(is_empty).map(|arg| arg.get_id().to_string())
}

/// clap's usage line also lists the settings that come from the environment. Without them the error lists only typed arguments.
fn as_typed(command: Command, args: &[OsString], error: Error) -> Error {
    if !error.use_stderr() {
        return error;
    }
    let typed = command.mut_args(|arg| arg.env(Resettable::<OsStr>::Reset).required(false));
    match typed.try_get_matches_from(args) {
        Err(same) if same.kind() == error.kind() => same,
        _ => error,
    }
}

/// The id of the setting whose value is wrong. `None`: another kind of error, or an argument of a sub-command.
fn wrong_setting(command: &Command, error: &Error) -> Option<String> {
    if !matches!(error.kind(), ErrorKind::ValueValidation | ErrorKind::InvalidValue) {
        return None;
    }
    let Some(ContextValue::String(named)) = error.get(ContextKind::InvalidArg) else {
        return None;
    };
    // `--listen <LISTEN>`, or `--migrate[=<BOOL>]`.
    let end = named.find([' ', '=', '[']).unwrap_or(named.len());
    let flag = named[..end].strip_prefix("--")?;
    let is_named = |arg: &&Arg| arg.get_long() == Some(flag);
    Some(command.get_arguments().find(is_named)?.get_id().to_string())
}

/// Describes the error in one line. The message of a parser does not contain the value of a secret setting.
fn problem(error: &Error) -> String {
    let value = match error.get(ContextKind::InvalidValue) {
        Some(ContextValue::String(value)) if !value.is_empty() => value,
        _ => return EMPTY.to_owned(),
    };
    if let Some(ContextValue::Strings(allowed)) = error.get(ContextKind::ValidValue) {
        return format!("must be one of {}, got `{value}`", allowed.join(", "));
    }
    match std::error::Error::source(error) {
        Some(source) => plain(&source.to_string(), value),
        None => "must be another value".to_owned(),
    }
}

/// Rewrites a message so that it names no Rust type. Messages of our own parsers stay as they are.
fn plain(message: &str, value: &str) -> String {
    if let Some((value, range)) = message.split_once(" is not in ") {
        return match range.split_once("..") {
            // clap shows an open range with the maximum of its type.
            Some((least, most)) if most.ends_with(&i64::MAX.to_string()) || most.ends_with(&u64::MAX.to_string()) => {
                format!("must be {least} or more, got {value}")
            }
            Some((least, most)) => format!("must be from {least} to {}, got {value}", most.trim_start_matches('=')),
            None => message.to_owned(),
        };
    }
    let must = match message {
        "invalid digit found in string" => "must be an integer",
        "number too large to fit in target type" => "must be a smaller number",
        "number too small to fit in target type" => "must be a larger number",
        "invalid socket address syntax" => "must be an address with a port, such as 127.0.0.1:8080",
        message => return message.to_owned(),
    };
    format!("{must}, got `{value}`")
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::{CommandFactory, Parser};

    #[derive(Parser)]
    #[command(name = "test")]
    struct Arguments {
        #[arg(long, env = "TEST_LISTEN", default_value = "127.0.0.1:1")]
        _listen: std::net::SocketAddr,
        #[arg(long, default_value = "1", value_parser = clap::value_parser!(u16).range(1..=9))]
        _shards: u16,
        #[arg(long, default_value = "5", value_parser = clap::value_parser!(i64).range(5..))]
        _bytes: i64,
        #[arg(long, value_enum, default_value = "text")]
        _format: crate::telemetry::LogFormat,
        #[arg(long, action = clap::ArgAction::Set, default_value = "true")]
        _migrate: bool,
        #[arg(long)]
        _name: Option<String>,
        #[arg(long)]
        _file: Option<std::path::PathBuf>,
        #[arg(long, value_delimiter = ',')]
        _proxies: Vec<String>,
        #[arg(long, default_value = "")]
        _password: String,
    }

    fn mistakes(args: &str) -> Result<String, Error> {
        let command = Arguments::command();
        let mut mistakes = Mistakes::of(&command);
        let args: Vec<_> = args.split(' ').map(OsString::from).collect();
        let found = matches(command, &args, &mut mistakes)?;
        assert!(found.is_some() || !mistakes.is_empty());
        Ok(mistakes.shown("test"))
    }

    #[test]
    fn all_wrong_values_are_found_at_once() {
        let args = "test --listen here --shards 10 --bytes x --format xml --migrate perhaps";
        assert_eq!(
            mistakes(args).unwrap(),
            "test: --listen (TEST_LISTEN): must be an address with a port, such as 127.0.0.1:8080, got `here`\n\
             test: --shards: must be from 1 to 9, got 10\n\
             test: --bytes: must be an integer, got `x`\n\
             test: --format: must be one of text, json, got `xml`\n\
             test: --migrate: must be one of true, false, got `perhaps`\n"
        );
        assert_eq!(
            mistakes("test --bytes 4").unwrap(),
            "test: --bytes: must be 5 or more, got 4\n"
        );
        assert_eq!(mistakes("test --shards 9").unwrap(), "");
    }

    #[test]
    fn an_empty_value_is_a_mistake_unless_it_is_the_default() {
        for flag in [
            "listen", "shards", "bytes", "format", "migrate", "name", "file", "proxies",
        ] {
            assert_eq!(
                mistakes(&format!("test --{flag}= --password=")).unwrap(),
                match flag {
                    "listen" => format!("test: --listen (TEST_LISTEN): {EMPTY}\n"),
                    flag => format!("test: --{flag}: {EMPTY}\n"),
                }
            );
        }
        assert_eq!(
            mistakes("test --name= --shards 0 --file=").unwrap(),
            format!("test: --shards: must be from 1 to 9, got 0\ntest: --file: {EMPTY}\ntest: --name: {EMPTY}\n")
        );
        assert_eq!(mistakes("test --proxies=a,b --name=x").unwrap(), "");
    }

    #[test]
    fn help_and_unknown_arguments_are_left_to_clap() {
        assert_eq!(mistakes("test --help").unwrap_err().kind(), ErrorKind::DisplayHelp);
        assert_eq!(
            mistakes("test --nothing").unwrap_err().kind(),
            ErrorKind::UnknownArgument
        );
        assert_eq!(
            mistakes("test --help --shards 0").unwrap_err().kind(),
            ErrorKind::DisplayHelp
        );
    }
}
