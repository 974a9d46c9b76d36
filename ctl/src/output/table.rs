//! Tables that fit the terminal, and stay whole when nobody looks.

use comfy_table::{Attribute, CellAlignment, ColumnConstraint, ContentArrangement, Row, Table, Width, presets};

use super::{Out, Tone, words};
use crate::exit::Failure;

/// Rows that are laid out together. The first batch fixes the columns of a long list, so memory stays bounded.
const ROWS_TOGETHER: usize = 1_000;
/// Blanks between columns.
const GAP: u16 = 2;
/// Text is not broken into lines shorter than this while a column can be left out instead.
const FLEXIBLE_MIN: u16 = 16;

/// One cell.
#[derive(Debug, Clone, Default)]
pub struct Cell {
    text: String,
    tone: Tone,
    right: bool,
}

impl Cell {
    /// Text in a colour.
    pub fn toned(text: impl AsRef<str>, tone: Tone) -> Self {
        Self {
            text: words::printable(text.as_ref()).into_owned(),
            tone,
            right: false,
        }
    }

    /// A number, to the right.
    pub fn number(number: u64) -> Self {
        Self {
            text: words::grouped(number),
            tone: Tone::Plain,
            right: true,
        }
    }

    /// Text to the right.
    pub fn right(text: impl AsRef<str>) -> Self {
        Self {
            right: true,
            ..Self::from(text.as_ref())
        }
    }

    /// Gives it a tone when it is a number other than 0.
    pub fn tone_unless_zero(mut self, tone: Tone) -> Self {
        if self.text != "0" {
            self.tone = tone;
        }
        self
    }
}

impl From<&str> for Cell {
    fn from(text: &str) -> Self {
        Self::toned(text, Tone::Plain)
    }
}

impl From<String> for Cell {
    fn from(text: String) -> Self {
        Self::from(text.as_str())
    }
}

/// Rows of a list, printed in batches with the same columns.
///
/// The widths are decided here and not by comfy-table, because they must stay the same from batch to batch, and because
/// it would rather break a number than leave a column out.
pub struct Rows {
    header: Vec<&'static str>,
    flexible: &'static [&'static str],
    droppable: &'static [&'static str],
    rows: Vec<Vec<Cell>>,
    /// Widths of the columns, by the first batch; `None` for a column that is left out.
    widths: Option<Vec<Option<u16>>>,
    at_least: &'static [u16],
    printed: u64,
}

impl Rows {
    /// A list with these columns.
    pub fn new(header: &[&'static str]) -> Self {
        Self {
            header: header.to_vec(),
            flexible: &[],
            droppable: &[],
            rows: Vec::new(),
            widths: None,
            at_least: &[],
            printed: 0,
        }
    }

    /// Columns whose text may be broken into several lines to fit a terminal.
    pub fn flexible(mut self, columns: &'static [&'static str]) -> Self {
        self.flexible = columns;
        self
    }

    /// Columns that are left out, in this order, when a terminal is too narrow for all.
    pub fn droppable(mut self, columns: &'static [&'static str]) -> Self {
        self.droppable = columns;
        self
    }

    /// Least widths, for a list whose first batch may be a single row.
    pub fn at_least(mut self, widths: &'static [u16]) -> Self {
        self.at_least = widths;
        self
    }

    /// Adds a row and prints a batch when it is full.
    pub fn push(&mut self, out: &mut Out, row: Vec<Cell>) -> Result<(), Failure> {
        self.rows.push(row);
        if self.rows.len() >= ROWS_TOGETHER {
            self.print(out)
        } else {
            Ok(())
        }
    }

    /// Prints what is waiting. The header comes with the first row; an empty list prints nothing.
    pub fn print(&mut self, out: &mut Out) -> Result<(), Failure> {
        let rows = std::mem::take(&mut self.rows);
        if rows.is_empty() {
            return Ok(());
        }
        self.printed += rows.len() as u64;
        let content = self.content_widths(&rows);
        let widths = match self.widths.take() {
            None => self.arrange(&content, out.width()),
            // Nothing is cut when nobody's screen has to be fitted.
            Some(widths) if out.width().is_none() => widths
                .iter()
                .zip(&content)
                .map(|(width, content)| width.map(|width| width.max(*content)))
                .collect(),
            Some(widths) => widths,
        };
        let mut table = Table::new();
        table
            .load_style(presets::NOTHING)
            .set_content_arrangement(ContentArrangement::Disabled);
        if out.color() {
            table.enforce_styling();
        } else {
            table.force_no_tty();
        }
        let kept = |index: usize| widths.get(index).is_some_and(Option::is_some);
        if self.printed == rows.len() as u64 {
            let titles = self
                .header
                .iter()
                .zip(&rows[0])
                .enumerate()
                .filter(|(index, _)| kept(*index));
            table.set_header(titles.map(|(_, (title, below))| {
                let title = comfy_table::Cell::new(title);
                let title = if below.right {
                    title.set_alignment(CellAlignment::Right)
                } else {
                    title
                };
                if out.color() {
                    title.add_attribute(Attribute::Bold)
                } else {
                    title
                }
            }));
        }
        for row in rows {
            let cells = row.into_iter().enumerate().filter(|(index, _)| kept(*index));
            table.add_row(Row::from(cells.map(|(_, cell)| into_comfy(cell)).collect::<Vec<_>>()));
        }
        for (column, width) in table.column_iter_mut().zip(widths.iter().flatten()) {
            column.set_padding((0, GAP));
            // comfy-table counts the padding in.
            column.set_constraint(ColumnConstraint::Absolute(Width::Fixed(width.saturating_add(GAP))));
        }
        self.widths = Some(widths);
        for line in table.trim_fmt().lines() {
            out.line(line)?;
        }
        Ok(())
    }

    /// What the longest cell of each column takes, the title included.
    fn content_widths(&self, rows: &[Vec<Cell>]) -> Vec<u16> {
        let mut table = Table::new();
        table.set_header(self.header.iter());
        table.add_rows(
            rows.iter()
                .map(|row| Row::from(row.iter().map(|cell| cell.text.as_str()))),
        );
        let mut widths = table.column_max_content_widths();
        for (width, least) in widths.iter_mut().zip(self.at_least) {
            *width = (*width).max(*least);
        }
        widths
    }

    fn arrange(&self, content: &[u16], available: Option<u16>) -> Vec<Option<u16>> {
        let mut widths: Vec<Option<u16>> = content.iter().copied().map(Some).collect();
        let Some(available) = available.map(u32::from) else {
            return widths;
        };
        let position = |title: &str| self.header.iter().position(|other| *other == title);
        let flexible: Vec<usize> = self.flexible.iter().filter_map(|title| position(title)).collect();
        let needed = |widths: &[Option<u16>], narrow: bool| -> u32 {
            let one = |(index, width): (usize, u16)| {
                let width = if narrow && flexible.contains(&index) {
                    width.min(FLEXIBLE_MIN)
                } else {
                    width
                };
                u32::from(width) + u32::from(GAP)
            };
            let all = widths
                .iter()
                .enumerate()
                .filter_map(|(index, width)| width.map(|width| (index, width)));
            all.map(one).sum::<u32>().saturating_sub(u32::from(GAP))
        };
        for index in self.droppable.iter().filter_map(|title| position(title)) {
            if needed(&widths, true) <= available {
                break;
            }
            widths[index] = None;
        }
        // The widest gives first.
        while needed(&widths, false) > available {
            let widest = flexible
                .iter()
                .filter_map(|index| widths[*index].map(|width| (width, *index)))
                .max();
            match widest {
                Some((width, index)) if width > FLEXIBLE_MIN => widths[index] = Some(width - 1),
                _ => break,
            }
        }
        widths
    }

    /// How many rows were printed.
    pub fn printed(&self) -> u64 {
        self.printed
    }
}

fn into_comfy(cell: Cell) -> comfy_table::Cell {
    let mut out = comfy_table::Cell::new(&cell.text);
    if let Some(color) = cell.tone.color() {
        out = out.fg(color);
    }
    if cell.right {
        out.set_alignment(CellAlignment::Right)
    } else {
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_narrow_terminal_takes_from_texts_first_and_then_leaves_columns_out() {
        let rows = Rows::new(&["ID", "TEXT", "MORE"])
            .flexible(&["TEXT"])
            .droppable(&["MORE"]);
        let arrange = |width| rows.arrange(&[10, 40, 10], width);
        assert_eq!(arrange(None), [Some(10), Some(40), Some(10)]);
        assert_eq!(arrange(Some(64)), [Some(10), Some(40), Some(10)]);
        assert_eq!(arrange(Some(50)), [Some(10), Some(26), Some(10)]);
        assert_eq!(arrange(Some(35)), [Some(10), Some(23), None]);
        // Too narrow for anything: the rest sticks out, and nothing is lost.
        assert_eq!(arrange(Some(5)), [Some(10), Some(FLEXIBLE_MIN), None]);
    }
}
