//! Arguments that make no sense. Whatever was given is never repeated: it may be a secret in the wrong place.

use std::ffi::OsString;

use clap::error::{ContextKind, ContextValue, ErrorKind};

use crate::{
    failure::{Exit, Failure, Rendering},
    output,
};

/// Says what is wrong with the arguments, or prints the help that was asked for.
pub(crate) fn report(error: &clap::Error, arguments: &[OsString]) -> Exit {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            // Broken pipe or not: there is nothing left to do.
            drop(error.print());
            return Exit::Done;
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            drop(error.print());
            return Exit::Usage;
        }
        _ => {}
    }
    let options: Vec<&OsString> = arguments.iter().take_while(|argument| *argument != "--").collect();
    let json = options.iter().any(|argument| *argument == "--json");
    let failure = failure(error);
    if let Some(text) = failure.render(&Rendering { json, ..Rendering::default() }) {
        output::say(&text);
    }
    failure.exit()
}

fn failure(error: &clap::Error) -> Failure {
    let argument = text(error, ContextKind::InvalidArg);
    let message = match error.kind() {
        ErrorKind::UnknownArgument => match argument.as_deref().and_then(flag) {
            Some(flag) => format!("there is no option `{flag}` here"),
            None => "an argument that this command does not take (not repeated here: it may be a secret)".into(),
        },
        ErrorKind::InvalidSubcommand => "there is no such command".into(),
        ErrorKind::MissingSubcommand => "a command is missing".into(),
        ErrorKind::MissingRequiredArgument => format!("missing: {}", argument.unwrap_or_else(|| "an argument".into())),
        ErrorKind::ArgumentConflict => match (argument, text(error, ContextKind::PriorArg)) {
            (Some(one), Some(other)) if one != other => format!("`{one}` and `{other}` do not go together"),
            (Some(one), _) => format!("`{one}` is given twice"),
            _ => "two arguments do not go together".into(),
        },
        ErrorKind::InvalidUtf8 => "an argument is not UTF-8".into(),
        _ => invalid_value(error, argument.as_deref()),
    };
    match hint(error) {
        Some(hint) => Failure::usage(message).hint(hint),
        None => Failure::usage(message).hint("`keyfold --help` and `keyfold COMMAND --help` say what is taken"),
    }
}

/// The value itself is left out; the reason comes from the parser of that value, which does not repeat it either.
fn invalid_value(error: &clap::Error, argument: Option<&str>) -> String {
    use std::error::Error;
    let argument = argument.unwrap_or("an argument");
    if text(error, ContextKind::InvalidValue).is_some_and(|value| value.is_empty()) {
        return format!("`{argument}` needs a value");
    }
    match error.source() {
        Some(reason) => format!("`{argument}`: {reason}"),
        None => format!("`{argument}` does not take this value"),
    }
}

fn hint(error: &clap::Error) -> Option<String> {
    if let Some(values) = text(error, ContextKind::ValidValue).filter(|values| !values.is_empty()) {
        return Some(format!("it takes {values}"));
    }
    let suggested = [ContextKind::SuggestedArg, ContextKind::SuggestedSubcommand, ContextKind::SuggestedValue];
    if let Some(meant) = suggested.into_iter().find_map(|kind| text(error, kind)) {
        return Some(format!("did you mean `{meant}`?"));
    }
    let stray = error.kind() == ErrorKind::UnknownArgument
        && text(error, ContextKind::InvalidArg).as_deref().and_then(flag).is_none();
    stray.then(|| "secrets come from stdin, file:PATH, env:NAME or a prompt, never from arguments".into())
}

fn text(error: &clap::Error, kind: ContextKind) -> Option<String> {
    match error.get(kind)? {
        ContextValue::String(text) => Some(text.clone()),
        ContextValue::Strings(texts) => Some(texts.join(", ")),
        _ => None,
    }
}

/// The name of an option without what was joined to it.
fn flag(argument: &str) -> Option<&str> {
    let name = argument.split('=').next()?;
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    (name.starts_with("--") && name.len() <= 40 && name.chars().all(plain)).then_some(name)
}
