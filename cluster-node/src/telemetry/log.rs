//! Logs, to standard error.

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::util::SubscriberInitExt;

use crate::config::LogFormat;

/// Why nothing is logged.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// Not a filter.
    #[error("telemetry.log_level: {0}")]
    Filter(#[from] tracing_subscriber::filter::ParseError),
    /// Something else in the process logs already.
    #[error("logging is set up already")]
    Twice(#[from] tracing_subscriber::util::TryInitError),
}

/// Begins to log. Once per process.
pub fn init_logging(level: &str, format: LogFormat) -> Result<(), LogError> {
    let filter = EnvFilter::try_new(level)?;
    subscriber(filter, format, std::io::stderr).try_init()?;
    Ok(())
}

fn subscriber<W>(filter: EnvFilter, format: LogFormat, writer: W) -> Box<dyn tracing::Subscriber + Send + Sync>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let base = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer);
    match format {
        // No colours: what reads standard error of a daemon is mostly a file.
        LogFormat::Text => Box::new(base.with_ansi(false).finish()),
        LogFormat::Json => Box::new(base.json().flatten_event(true).finish()),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{self, Write};
    use std::sync::Arc;

    use parking_lot::Mutex;

    use super::*;

    #[derive(Clone, Default)]
    struct Memory(Arc<Mutex<Vec<u8>>>);

    impl Write for Memory {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(format: LogFormat) -> String {
        let memory = Memory::default();
        let writer = memory.clone();
        let subscriber = subscriber(EnvFilter::new("info"), format, move || writer.clone());
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!(pin = "bafy", node = "n7", "pinned");
            tracing::debug!("not said");
        });
        let bytes = memory.0.lock().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn json_is_one_object_a_line() {
        let text = logged(LogFormat::Json);
        assert_eq!(text.lines().count(), 1, "{text}");
        let line: serde_json::Value = serde_json::from_str(text.trim()).unwrap();
        assert_eq!(line["message"], "pinned");
        assert_eq!(line["pin"], "bafy");
        assert_eq!(line["level"], "INFO");
    }

    #[test]
    fn text_has_the_fields() {
        let text = logged(LogFormat::Text);
        assert!(text.contains("pinned") && text.contains("node=\"n7\""), "{text}");
        assert!(!text.contains('\u{1b}'), "no colours: {text}");
    }
}
