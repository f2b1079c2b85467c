//! The texts of NEXMark's events.

use std::fmt::Write;
use std::sync::LazyLock;

use rand::Rng;

use crate::random::Random;

const CHANNELS: u32 = 10_000;
/// Where the texts come from that are the same in every run, whatever its seed.
const FIXED_SEED: u64 = 0x6E65_786D_6172_6B00;
/// What `extra` is cut out of.
const LETTERS: usize = 1 << 20;
const TEXT_CHARS_MIN: u32 = 3;

/// Channels with the addresses of their bids.
static CHANNEL_URLS: LazyLock<Vec<(String, String)>> = LazyLock::new(|| {
    let channel = |number: u32| {
        let mut random = Random::of(FIXED_SEED, number.into());
        let mut url = base_url(&mut random);
        if random.random_range(0..10) > 0 {
            let id = (number.reverse_bits() as i32).unsigned_abs();
            url.push_str(&format!("&channel_id={id}"));
        }
        (format!("channel-{number}"), url)
    };
    (0..CHANNELS).map(channel).collect()
});

/// Half of all bids come by these.
static HOT_CHANNELS: LazyLock<Vec<(String, String)>> = LazyLock::new(|| {
    let names = ["Google", "Facebook", "Baidu", "Apple"].into_iter();
    let numbered = names.zip(u64::from(CHANNELS)..);
    let channel = |(name, n): (&str, u64)| (name.to_owned(), base_url(&mut Random::of(FIXED_SEED, n)));
    numbered.map(channel).collect()
});

static EXTRA: LazyLock<String> = LazyLock::new(|| {
    let mut random = Random::of(FIXED_SEED, u64::MAX);
    (0..LETTERS)
        .map(|_| char::from(random.random_range(b'a'..=b'z')))
        .collect()
});

/// A channel and the address of a bid that came by it.
pub(super) fn channel(random: &mut Random) -> &'static (String, String) {
    let from = match random.random_bool(0.5) {
        true => &*HOT_CHANNELS,
        false => &*CHANNEL_URLS,
    };
    &from[random.random_range(0..from.len())]
}

fn base_url(random: &mut Random) -> String {
    let mut url = "https://www.nexmark.com".to_owned();
    for _ in 0..3 {
        url.push('/');
        write_text(&mut url, random, 5, '_');
    }
    url.push_str("/item.htm?query=1");
    url
}

/// Adds a text of at least 3 and less than `chars_max` characters, one in 13 of them `special`.
pub(super) fn write_text(out: &mut impl Write, random: &mut Random, chars_max: u32, special: char) {
    let chars = random.random_range(TEXT_CHARS_MIN..chars_max);
    for place in 0..chars {
        let letter = char::from(random.random_range(b'a'..=b'z'));
        // Blanks at the ends are cut off where the benchmark comes from.
        let inside = special != ' ' || (place > 0 && place + 1 < chars);
        let chosen = if random.random_range(0..13) == 0 && inside {
            special
        } else {
            letter
        };
        // Texts and columns of texts take whatever is written.
        let _ = out.write_char(chosen);
    }
}

/// What fills an event of `bytes` up to `bytes_average`, more or less.
pub(super) fn extra(random: &mut Random, bytes: usize, bytes_average: usize) -> &'static str {
    let wanted = bytes_average.saturating_sub(bytes);
    let delta = wanted / 5;
    let length = match delta {
        0 => wanted,
        delta => wanted - delta + random.random_range(0..2 * delta),
    };
    let start = random.random_range(0..LETTERS - length);
    &EXTRA[start..start + length]
}

pub(super) fn one_of(random: &mut Random, words: &[&'static str]) -> &'static str {
    words[random.random_range(0..words.len())]
}

/// From 100 to 100,000,000, evenly over the orders of magnitude.
pub(super) fn price(random: &mut Random) -> i64 {
    (10_f64.powf(random.random::<f64>() * 6.0) * 100.0).round() as i64
}
