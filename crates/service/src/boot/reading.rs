//! Reads arguments and environment with clap. After a wrong value it continues, to find all wrong values.

use std::ffi::OsString;

use clap::{
    Arg, ArgMatches, Command, Error,
    builder::{OsStr, OsStringValueParser, Resettable},
    error::{ContextKind, ContextValue, ErrorKind},
};

use super::Mistakes;

/// `None`: some values are wrong, and were added to the mistakes.
pub(super) fn matches(
    mut command: Command,
    args: &[OsString],
    mistakes: &mut Mistakes,
) -> Result<Option<ArgMatches>, Error> {
    let mut wrong: Vec<String> = Vec::new();
    loop {
        let error = match command.clone().try_get_matches_from(args) {
            Ok(matches) => return Ok(wrong.is_empty().then_some(matches)),
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

/// The usage line of clap's error also lists all settings of the environment. The same error without them lists what was typed.
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
    if let Some(ContextValue::Strings(allowed)) = error.get(ContextKind::ValidValue) {
        return format!("must be one of {}", allowed.join(", "));
    }
    match std::error::Error::source(error) {
        Some(source) => plain(&source.to_string()),
        None => "must not be empty".to_owned(),
    }
}

/// Rewrites a message so that it names no Rust type.
fn plain(message: &str) -> String {
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
    match message {
        "invalid digit found in string" | "cannot parse integer from empty string" => "must be an integer",
        "number too large to fit in target type" => "is too large",
        "number too small to fit in target type" => "is too small",
        "invalid socket address syntax" => "must be an address with a port, such as 127.0.0.1:8080",
        message => message,
    }
    .to_owned()
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
    }

    fn mistakes(args: &str) -> Result<String, Error> {
        let command = Arguments::command();
        let mut mistakes = Mistakes::of(&command);
        let args: Vec<_> = args.split(' ').map(OsString::from).collect();
        let found = matches(command, &args, &mut mistakes)?;
        assert_eq!(found.is_none(), !mistakes.is_empty());
        Ok(mistakes.shown("test"))
    }

    #[test]
    fn all_wrong_values_are_found_at_once() {
        let args = "test --listen here --shards 10 --bytes x --format xml --migrate perhaps";
        assert_eq!(
            mistakes(args).unwrap(),
            "test: --listen (TEST_LISTEN): must be an address with a port, such as 127.0.0.1:8080\n\
             test: --shards: must be from 1 to 9, got 10\n\
             test: --bytes: must be an integer\n\
             test: --format: must be one of text, json\n\
             test: --migrate: must be one of true, false\n"
        );
        assert_eq!(
            mistakes("test --bytes 4").unwrap(),
            "test: --bytes: must be 5 or more, got 4\n"
        );
        assert_eq!(mistakes("test --shards 9").unwrap(), "");
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
