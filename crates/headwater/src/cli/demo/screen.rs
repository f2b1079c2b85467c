//! What the demo shows: a picture that renews itself on a terminal, a line per second elsewhere.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::time::Duration;

use serde::Deserialize;

use crate::cli::output::{self, grouped};
use crate::cli::simulate::traffic::Second;
use crate::cli::welcome::server_argument;

const BAR_WIDTH: u64 = 32;
/// Of a terminal that does not say.
const SIZE: Size = Size { width: 80, height: 24 };

/// One moment.
#[derive(Debug)]
pub struct Frame<'a> {
    pub elapsed: Duration,
    pub second: Second,
    pub total: u64,
    pub pages: Vec<Page>,
    /// What was different from the usual at the start.
    pub notes: &'a [String],
    pub http: SocketAddr,
    pub postgres: Option<SocketAddr>,
}

/// A row of the view `top_pages`.
#[derive(Debug, Deserialize)]
pub struct Page {
    #[serde(rename = "page_url")]
    pub url: String,
    pub clicks: u64,
}

/// Where frames are drawn. The terminal is as it was when this is dropped.
#[derive(Debug)]
pub struct Screen {
    terminal: bool,
    drawn: bool,
    size: Size,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Size {
    width: usize,
    height: usize,
}

impl Screen {
    pub fn new(terminal: bool) -> Self {
        Self {
            terminal,
            drawn: false,
            size: SIZE,
        }
    }

    pub fn draw(&mut self, frame: &Frame<'_>) -> io::Result<()> {
        if !self.terminal {
            if !self.drawn {
                self.drawn = true;
                output::line(&addresses(frame).join("\n"))?;
            }
            return output::line(&summary(frame));
        }
        let size = size();
        let mut out = io::stdout().lock();
        if !self.drawn || size != self.size {
            (self.drawn, self.size) = (true, size);
            // Cleared once for each size; after that lines are overwritten, so that nothing flickers.
            out.write_all(b"\x1b[?25l\x1b[2J")?;
        }
        out.write_all(b"\x1b[H")?;
        for line in fitting(picture(frame), size) {
            write!(out, "{line}\x1b[K\r\n")?;
        }
        out.write_all(b"\x1b[J")?;
        out.flush()
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        if self.terminal && self.drawn {
            // A terminal that is gone needs no cursor.
            let _ = io::stdout().write_all(b"\x1b[?25h");
            let _ = io::stdout().flush();
        }
    }
}

fn size() -> Size {
    match terminal_size::terminal_size() {
        Some((width, height)) if width.0 > 0 && height.0 > 0 => Size {
            width: width.0.into(),
            height: height.0.into(),
        },
        _ => SIZE,
    }
}

/// The lines that there is room for, the cursor's below them: a picture that is too high would scroll.
fn fitting(lines: Vec<String>, size: Size) -> Vec<String> {
    let mut room = size.height.saturating_sub(1);
    let fits = |line: &String| {
        let rows = width(line).div_ceil(size.width).max(1);
        let fits = rows <= room;
        room = room.saturating_sub(rows);
        fits
    };
    lines.into_iter().take_while(fits).collect()
}

/// The columns that a line takes, without what only sets colours.
fn width(line: &str) -> usize {
    let mut pieces = line.split('\x1b');
    let plain = pieces.next().unwrap_or_default().chars().count();
    let after = |piece: &str| piece.split_once('m').map_or(0, |(_, rest)| rest.chars().count());
    plain + pieces.map(after).sum::<usize>()
}

fn picture(frame: &Frame<'_>) -> Vec<String> {
    let mut lines = vec![
        format!(
            "\x1b[1mHeadwater\x1b[0m  {:>4.0} s   Ctrl-C ends it",
            frame.elapsed.as_secs_f64()
        ),
        String::new(),
        format!(
            "  {:>9} events/s in   {} in all",
            grouped(frame.second.acknowledged),
            grouped(frame.total)
        ),
        format!("  {}", latency(&frame.second)),
        String::new(),
        "  top pages".to_owned(),
    ];
    let most = frame.pages.first().map_or(1, |page| page.clicks.max(1));
    for page in &frame.pages {
        let bar = "█".repeat((page.clicks * BAR_WIDTH / most) as usize);
        lines.push(format!(
            "  {:<16} {:>12}  \x1b[36m{bar}\x1b[0m",
            page.url,
            grouped(page.clicks)
        ));
    }
    lines.push(String::new());
    lines.extend(addresses(frame));
    lines
}

fn summary(frame: &Frame<'_>) -> String {
    let top = frame
        .pages
        .first()
        .map(|page| format!(", top page {} {}", page.url, grouped(page.clicks)));
    format!(
        "{:.0} s: {} events/s in, {} in all, {}{}",
        frame.elapsed.as_secs_f64(),
        grouped(frame.second.acknowledged),
        grouped(frame.total),
        latency(&frame.second),
        top.unwrap_or_default()
    )
}

fn latency(second: &Second) -> String {
    match second.latency_ms {
        Some((median, high)) => format!("durable and acknowledged after {median:.1} ms (p50), {high:.1} ms (p99)"),
        None => "nothing acknowledged in the last second".to_owned(),
    }
}

/// Lines to paste into another terminal.
fn addresses(frame: &Frame<'_>) -> Vec<String> {
    let http = frame.http;
    let mut lines: Vec<String> = frame.notes.iter().map(|note| format!("  ({note})")).collect();
    lines.push("  try, in another terminal:".to_owned());
    lines.push(format!(
        "  curl -d '{{\"user_id\":\"me\",\"event_type\":\"click\",\"page_url\":\"/home\"}}' {http}/ingest"
    ));
    lines.push(format!("  curl '{http}/analytics/events?user_id=me&page_url=/home'"));
    lines.push(format!("  curl '{http}/v1/views/top_pages?order=-clicks&limit=10'"));
    lines.push(format!("  headwater sql{}", server_argument(http)));
    lines.push(format!("  headwater tail clicks_per_minute{}", server_argument(http)));
    if let Some(postgres) = frame.postgres {
        lines.push(format!(
            "  psql -h {} -p {} -U headwater headwater",
            postgres.ip(),
            postgres.port()
        ));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_fits_a_small_terminal() {
        let notes = ["127.0.0.1:8080 is in use, so http.listen is another port".to_owned()];
        let frame = frame(&notes);
        let lines = picture(&frame);
        assert_eq!(
            fitting(lines.clone(), SIZE),
            lines,
            "all of it in 80 columns and 24 lines"
        );
        assert!(lines.iter().any(|line| line.contains("5,000 events/s")));
        assert!(summary(&frame).contains("top page /products/1 1,000,000"));
    }

    #[test]
    fn a_picture_ends_where_the_terminal_does() {
        let lines = fitting(picture(&frame(&[])), Size { width: 40, height: 12 });
        let rows: usize = lines.iter().map(|line| width(line).div_ceil(40).max(1)).sum();
        assert!(rows < 12, "{lines:?}");
        assert!(lines.iter().any(|line| line.contains("5,000 events/s")));
        assert_eq!(width("\x1b[1mHeadwater\x1b[0m 3 s"), 13);
    }

    fn frame(notes: &[String]) -> Frame<'_> {
        let page = |rank: u64| Page {
            url: format!("/products/{rank}"),
            clicks: 1_000_000 / rank,
        };
        Frame {
            elapsed: Duration::from_secs(3),
            second: Second {
                acknowledged: 5000,
                latency_ms: Some((1.0, 2.0)),
                ..Second::default()
            },
            total: 15_000,
            pages: (1..=6).map(page).collect(),
            notes,
            http: SocketAddr::from(([127, 0, 0, 1], 40_123)),
            postgres: Some(SocketAddr::from(([127, 0, 0, 1], 5433))),
        }
    }
}
