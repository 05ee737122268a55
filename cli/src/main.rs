//! `kubectl eventmesh`: what a person at a terminal does with meshes beyond applying objects. It reads clusters and writes to its
//! output; it changes nothing anywhere.

mod args;
mod cluster;
mod error;
mod link;
mod text;

use std::{
    io::{self, Write as _},
    process::ExitCode,
};

use clap::Parser;

use crate::{
    args::{Command, LinkAction, Subject},
    error::Error,
};

/// What a command has to say, and whether all is well.
struct Answer {
    text: String,
    good: bool,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match run(Command::parse()).await {
        Ok(Answer { text, good }) => match io::stdout().lock().write_all(text.as_bytes()) {
            Ok(()) if good => ExitCode::SUCCESS,
            // Who reads it may have seen enough.
            _ => ExitCode::FAILURE,
        },
        Err(error) => {
            let _ = writeln!(io::stderr(), "error: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(command: Command) -> Result<Answer, Error> {
    let Subject::Link { action } = command.subject;
    match action {
        LinkAction::Generate(wanted) => link::generate(&command.access, &wanted).await,
        LinkAction::Inspect(wanted) => link::inspect(&command.access, &wanted).await,
        LinkAction::List(wanted) => link::list(&command.access, &wanted).await,
    }
}
