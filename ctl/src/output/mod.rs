//! Where answers and talk go: data on stdout, everything else on stderr.

pub mod json;
pub mod meter;
pub mod table;
pub mod words;

use std::io::{self, BufWriter, IsTerminal, Write};

use comfy_table::Color;
use serde::Serialize;

use crate::exit::Failure;

/// The form of the data on stdout.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Format {
    /// For people.
    #[default]
    Table,
    /// For programs: one object a line, with field names that stay.
    Json,
}

/// What a piece of text says about the state of things; decides its colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Tone {
    /// No colour.
    #[default]
    Plain,
    /// All is well.
    Good,
    /// On its way, or in need of attention.
    Warn,
    /// Something is broken.
    Bad,
    /// Of little interest.
    Dim,
}

impl Tone {
    pub(crate) fn color(self) -> Option<Color> {
        match self {
            Self::Plain => None,
            Self::Good => Some(Color::Green),
            Self::Warn => Some(Color::Yellow),
            Self::Bad => Some(Color::Red),
            Self::Dim => Some(Color::DarkGrey),
        }
    }

    fn sgr(self) -> Option<&'static str> {
        match self {
            Self::Plain => None,
            Self::Good => Some("32"),
            Self::Warn => Some("33"),
            Self::Bad => Some("31"),
            Self::Dim => Some("90"),
        }
    }

    fn paint(self, text: &str, color: bool) -> String {
        match self.sgr() {
            Some(code) if color => format!("\x1b[{code}m{text}\x1b[0m"),
            _ => text.to_owned(),
        }
    }
}

/// Messages to the person at the terminal, on stderr.
#[derive(Debug, Clone, Copy)]
pub struct Talk {
    quiet: bool,
    color: bool,
    terminal: bool,
}

impl Talk {
    /// Talk on stderr.
    pub fn new(quiet: bool, no_color: bool) -> Self {
        let terminal = io::stderr().is_terminal();
        Self {
            quiet,
            color: terminal && !no_color,
            terminal,
        }
    }

    /// Something good to know; silenced by `--quiet`.
    pub fn note(&self, text: &str) {
        if !self.quiet {
            self.line(&words::printable(text));
        }
    }

    /// Something that was refused or went wrong; never silenced.
    pub fn warn(&self, text: &str) {
        self.line(&format!(
            "{} {}",
            Tone::Warn.paint("warning:", self.color),
            words::printable(text)
        ));
    }

    /// The end of a command that failed.
    pub fn failure(&self, failure: &Failure) {
        if failure.message.is_empty() {
            return;
        }
        self.line(&format!(
            "{} {}",
            Tone::Bad.paint("error:", self.color),
            words::printable(&failure.message)
        ));
        for hint in &failure.hints {
            self.line(&format!(
                "{} {}",
                Tone::Good.paint("hint:", self.color),
                words::printable(hint)
            ));
        }
    }

    /// Whether a progress bar can be drawn.
    pub fn can_draw(&self) -> bool {
        self.terminal && !self.quiet
    }

    /// Whether notes are wanted.
    pub fn is_quiet(&self) -> bool {
        self.quiet
    }

    fn line(&self, text: &str) {
        // Nobody is left to tell when stderr is gone.
        let _ = writeln!(io::stderr().lock(), "{text}");
    }
}

/// The data on stdout.
pub struct Out {
    format: Format,
    full: bool,
    color: bool,
    /// Columns that a table may take; `None` when stdout is no terminal.
    width: Option<u16>,
    data: Box<dyn Write + Send>,
}

impl Out {
    /// Data on stdout. `width` replaces the terminal's own.
    pub fn stdout(format: Format, full: bool, no_color: bool, width: Option<u16>) -> Self {
        let terminal = io::stdout().is_terminal();
        // comfy-table asks the terminal itself; nothing else here knows the size.
        let own = || terminal.then(|| comfy_table::Table::new().width()).flatten();
        Self {
            format,
            full,
            color: terminal && !no_color,
            width: width.or_else(own),
            data: Box::new(BufWriter::with_capacity(64 << 10, io::stdout())),
        }
    }

    /// Whether objects are wanted instead of tables.
    pub fn is_json(&self) -> bool {
        self.format == Format::Json
    }

    /// Columns that a table may take.
    pub fn width(&self) -> Option<u16> {
        self.width
    }

    /// Whether colours are wanted.
    pub fn color(&self) -> bool {
        self.color
    }

    /// One object on one line.
    pub fn object(&mut self, object: &impl Serialize) -> Result<(), Failure> {
        serde_json::to_writer(&mut self.data, object).map_err(io::Error::from)?;
        self.data.write_all(b"\n")?;
        Ok(())
    }

    /// One line of text. Control characters in it must have been made printable.
    pub fn line(&mut self, text: &str) -> Result<(), Failure> {
        writeln!(self.data, "{text}")?;
        Ok(())
    }

    /// Text in the colour of its tone.
    pub fn paint(&self, tone: Tone, text: &str) -> String {
        tone.paint(text, self.color)
    }

    /// Shows what was written so far.
    pub fn flush(&mut self) -> Result<(), Failure> {
        self.data.flush()?;
        Ok(())
    }

    /// A CID or peer ID: whole, unless it has to fit a terminal.
    pub fn id(&self, id: &str) -> String {
        const HEAD: usize = 8;
        const TAIL: usize = 8;
        let id = words::printable(id);
        let length = id.chars().count();
        if self.full || self.width.is_none() || length <= HEAD + TAIL + 1 {
            return id.into_owned();
        }
        let head: String = id.chars().take(HEAD).collect();
        let tail: String = id.chars().skip(length - TAIL).collect();
        format!("{head}…{tail}")
    }
}
