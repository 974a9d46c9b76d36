//! How far the transfer of bytes has come: a bar on a terminal, a line now and then elsewhere.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use tokio::time::Instant;

use super::{Talk, words};

/// Where no bar can be drawn, a line after so much time.
const SAY_TIME: Duration = Duration::from_secs(10);
const DRAW_TIME: Duration = Duration::from_millis(200);

const UNKNOWN: &str = "{spinner} {binary_bytes}  {binary_bytes_per_sec}  {msg}  {elapsed}";
const KNOWN: &str = "{bar:30} {binary_bytes} of {binary_total_bytes}  {binary_bytes_per_sec}  {msg}  ETA {eta}";

/// Shows progress on stderr.
pub struct Meter {
    talk: Talk,
    bar: Option<ProgressBar>,
    total: Option<u64>,
    bytes: u64,
    extra: String,
    begun: Instant,
    said: Instant,
    is_silent: bool,
}

impl Meter {
    /// A meter of so many bytes, where that is known.
    pub fn new(talk: Talk, total: Option<u64>) -> Self {
        let bar = talk.can_draw().then(ProgressBar::new_spinner);
        if let Some(bar) = &bar {
            bar.enable_steady_tick(DRAW_TIME);
        }
        let now = Instant::now();
        let mut meter = Self {
            talk,
            bar,
            total: None,
            bytes: 0,
            extra: String::new(),
            begun: now,
            said: now,
            is_silent: false,
        };
        meter.style(UNKNOWN);
        if let Some(total) = total {
            meter.total(total);
        }
        meter
    }

    /// A meter that shows nothing.
    pub fn silent(talk: Talk) -> Self {
        let mut meter = Self::new(talk, None);
        meter.clear();
        meter.is_silent = true;
        meter
    }

    fn style(&mut self, template: &str) {
        if let (Some(bar), Ok(style)) = (&self.bar, ProgressStyle::with_template(template)) {
            bar.set_style(style);
        }
    }

    /// Says how many bytes it will be.
    pub fn total(&mut self, total: u64) {
        if self.total == Some(total) {
            return;
        }
        self.total = Some(total);
        self.style(KNOWN);
        if let Some(bar) = &self.bar {
            bar.set_length(total);
        }
    }

    /// Says how many it is by now.
    pub fn set(&mut self, bytes: u64) {
        self.bytes = bytes;
        if let Some(bar) = &self.bar {
            bar.set_position(bytes);
        }
    }

    /// Adds some.
    pub fn add(&mut self, bytes: u64) {
        self.set(self.bytes.saturating_add(bytes));
    }

    /// Says something beside the numbers.
    pub fn extra(&mut self, text: String) {
        if let Some(bar) = &self.bar {
            bar.set_message(text.clone());
        }
        self.extra = text;
    }

    /// Says something now and then where no bar can be drawn.
    pub fn tick(&mut self) {
        if self.is_silent || self.bar.is_some() || self.said.elapsed() < SAY_TIME {
            return;
        }
        self.said = Instant::now();
        let rate = self.bytes as f64 / self.begun.elapsed().as_secs_f64().max(0.001);
        let mut text = words::bytes(self.bytes);
        if let Some(total) = self.total {
            text += &format!(" of {}", words::bytes(total));
        }
        text += &format!(", {}/s", words::bytes(rate as u64));
        if !self.extra.is_empty() {
            text += &format!(", {}", self.extra);
        }
        self.talk.note(&text);
    }

    /// Does something with the screen while the bar is away.
    pub fn suspend<T>(&self, act: impl FnOnce() -> T) -> T {
        match &self.bar {
            Some(bar) => bar.suspend(act),
            None => act(),
        }
    }

    /// Takes the bar away.
    pub fn clear(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

const SHARE: &str = "{bar:30} {percent:>3} %  {msg}  {elapsed}";
/// Steps of a bar that shows a share.
const SHARE_STEPS: u64 = 1_000;

/// Shows on stderr how much of something is done, where that is a share and not a number of bytes.
pub struct ShareMeter {
    talk: Talk,
    bar: Option<ProgressBar>,
    said: Instant,
}

impl ShareMeter {
    /// A meter that stands at nothing, and is drawn with the first share.
    pub fn new(talk: Talk) -> Self {
        Self {
            talk,
            bar: None,
            said: Instant::now(),
        }
    }

    /// Says how much it is by now, 0 to 1, and something beside it.
    pub fn set(&mut self, share: f64, text: String) {
        if self.talk.can_draw() {
            let bar = self.bar.get_or_insert_with(share_bar);
            bar.set_position((share.clamp(0.0, 1.0) * SHARE_STEPS as f64) as u64);
            bar.set_message(text);
        } else if self.said.elapsed() >= SAY_TIME {
            self.said = Instant::now();
            self.talk.note(&format!("{} done, {text}", words::percent(share)));
        }
    }
}

fn share_bar() -> ProgressBar {
    let bar = ProgressBar::new(SHARE_STEPS);
    if let Ok(style) = ProgressStyle::with_template(SHARE) {
        bar.set_style(style);
    }
    bar.enable_steady_tick(DRAW_TIME);
    bar
}

impl Drop for ShareMeter {
    /// As for [`Meter`].
    fn drop(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

impl Drop for Meter {
    /// However a command ends: an error must not stand behind half a bar.
    fn drop(&mut self) {
        self.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A bad template would only make the bar plain.
    #[test]
    fn the_bars_have_a_form() {
        for template in [UNKNOWN, KNOWN, SHARE] {
            ProgressStyle::with_template(template).expect("well formed");
        }
    }
}
