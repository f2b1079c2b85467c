//! Visitors of a shop: who clicks what, and when.
//!
//! A few thousand visitors are on the site at a time, each going from page to page until the visit
//! ends and another visitor comes. Pages are popular by Zipf's law: the n-th page is visited 1/n as
//! often as the first. One event in ten comes up to three seconds late, as over a phone network.
//! Knows no clock and no network: the time is handed in, everything else follows from the seed.

use headwater_event::clock::Micros;
use headwater_schema::calendar;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::io::Write;

/// How late an event may come. Less than the watermark's delay in the example.
const DELAY_MICROS_MAX: Micros = 3_000_000;
const PRODUCTS: u32 = 400;
/// Pages of one visit, at most.
const VISIT_PAGES_MAX: u32 = 20;
/// Visitors on the site at one time: this part of all, within bounds.
const VISITORS_PART: u32 = 10;
const VISITORS_MAX: u32 = 5_000;

/// Makes events, one after the other.
#[derive(Debug)]
pub struct Clickstream {
    random: ChaCha8Rng,
    users: u32,
    visits: Vec<Visit>,
    pages: Vec<String>,
    /// The sum of the weights of the pages up to each, so that a draw is a search.
    weights: Vec<f64>,
}

#[derive(Clone, Copy, Debug)]
struct Visit {
    user: u32,
    page: usize,
    pages_left: u32,
}

impl Clickstream {
    pub fn new(seed: u64, users: u32) -> Self {
        let pages = pages();
        let mut sum = 0.0;
        let weights = (1..=pages.len()).map(|rank| {
            sum += 1.0 / rank as f64;
            sum
        });
        let mut clicks = Self {
            random: ChaCha8Rng::seed_from_u64(seed),
            users: users.max(1),
            visits: Vec::new(),
            weights: weights.collect(),
            pages,
        };
        for _ in 0..(clicks.users / VISITORS_PART).clamp(1, VISITORS_MAX) {
            let visit = clicks.visit();
            clicks.visits.push(visit);
        }
        clicks
    }

    /// Appends one event as a line of JSON.
    pub fn write(&mut self, now: Micros, out: &mut Vec<u8>) {
        let place = self.random.random_range(0..self.visits.len());
        let visit = self.visits[place];
        let event_type = self.event_type();
        let time = now - self.delay();
        // Writing to a vector can't fail.
        let _ = write!(
            out,
            "{{\"event_id\":\"{:032x}\",\"user_id\":\"u{}\",\"event_type\":\"{event_type}\",\"page_url\":\"{}\",\"time_stamp\":\"",
            self.random.random::<u128>(),
            visit.user,
            self.pages[visit.page],
        );
        calendar::write_timestamp(time, 1_000_000, out);
        out.extend_from_slice(b"\"}\n");
        self.visits[place] = match visit.pages_left {
            0 => self.visit(),
            pages_left => Visit {
                page: self.page(),
                pages_left: pages_left - 1,
                ..visit
            },
        };
    }

    /// A new visitor comes in.
    fn visit(&mut self) -> Visit {
        Visit {
            user: self.random.random_range(1..=self.users),
            page: self.page(),
            pages_left: self.random.random_range(0..VISIT_PAGES_MAX),
        }
    }

    fn page(&mut self) -> usize {
        let sum = self.weights.last().copied().unwrap_or(1.0);
        let drawn = self.random.random_range(0.0..sum);
        self.weights
            .partition_point(|weight| *weight <= drawn)
            .min(self.pages.len() - 1)
    }

    fn event_type(&mut self) -> &'static str {
        match self.random.random_range(0..100) {
            0..70 => "page_view",
            70..93 => "click",
            93..97 => "ad_click",
            97..99 => "add_to_cart",
            _ => "purchase",
        }
    }

    fn delay(&mut self) -> Micros {
        match self.random.random_range(0..10) {
            0 => self.random.random_range(0..DELAY_MICROS_MAX),
            _ => self.random.random_range(0..50_000),
        }
    }
}

/// The most popular first.
fn pages() -> Vec<String> {
    let fixed = [
        "/home",
        "/search",
        "/offers",
        "/cart",
        "/login",
        "/checkout",
        "/help",
        "/about",
    ];
    let products = (1..=PRODUCTS).map(|number| format!("/products/{number}"));
    fixed.into_iter().map(str::to_owned).chain(products).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use serde_json::Value;

    use super::*;

    const NOW: Micros = 1_700_000_000_000_000;

    fn events(seed: u64, count: usize) -> Vec<u8> {
        let mut clicks = Clickstream::new(seed, 1000);
        let mut out = Vec::new();
        (0..count).for_each(|_| clicks.write(NOW, &mut out));
        out
    }

    #[test]
    fn a_seed_decides_everything() {
        assert_eq!(events(7, 100), events(7, 100));
        assert_ne!(events(7, 100), events(8, 100));
    }

    #[test]
    fn pages_follow_zipfs_law_and_times_stay_within_the_watermark() {
        let text = String::from_utf8(events(1, 20_000)).unwrap();
        let mut visits: HashMap<String, u32> = HashMap::new();
        for line in text.lines() {
            let event: Value = serde_json::from_str(line).unwrap();
            *visits
                .entry(event["page_url"].as_str().unwrap().to_owned())
                .or_default() += 1;
            let time = calendar::parse_timestamp(event["time_stamp"].as_str().unwrap().as_bytes()).unwrap();
            assert!((NOW - DELAY_MICROS_MAX..=NOW).contains(&time));
        }
        let (home, offers) = (f64::from(visits["/home"]), f64::from(visits["/offers"]));
        assert!((2.4..3.6).contains(&(home / offers)), "{home} {offers}");
    }
}
