//! The name that was probably meant.

/// Names longer than this are not compared: the work grows with the square of the length, and the
/// name comes from outside.
const NAME_BYTES_MAX: usize = 64;

/// The most similar of `names`, if it is similar at all: one slip, or one more
/// for every four characters, and always less than half of them.
pub fn nearest<'a>(name: &[u8], names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    if name.len() > NAME_BYTES_MAX {
        return None;
    }
    let lower = name.to_ascii_lowercase();
    names
        .filter(|other| other.len() <= NAME_BYTES_MAX)
        .map(|other| (distance(&lower, &other.to_ascii_lowercase().into_bytes()), other))
        .filter(|(distance, other)| *distance <= 1 + other.len() / 4 && *distance * 2 < other.len())
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, other)| other)
}

/// How many bytes have to be added, removed or changed (Levenshtein), two that changed places
/// counting once.
fn distance(a: &[u8], b: &[u8]) -> usize {
    let mut before_last = vec![0; b.len() + 1];
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 0..a.len() {
        let mut row = vec![i + 1; b.len() + 1];
        for j in 0..b.len() {
            let change = last[j] + usize::from(a[i] != b[j]);
            row[j + 1] = change.min(last[j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && a[i] == b[j - 1] && a[i - 1] == b[j] {
                row[j + 1] = row[j + 1].min(before_last[j - 1] + 1);
            }
        }
        before_last = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_are_seen_through() {
        let names = ["user_id", "page_url", "time_stamp"];
        let meant = |name: &str| nearest(name.as_bytes(), names.into_iter());
        assert_eq!(meant("userid"), Some("user_id"));
        assert_eq!(meant("User_ID"), Some("user_id"));
        assert_eq!(meant("page_ulr"), Some("page_url"));
        assert_eq!(meant("timestamp"), Some("time_stamp"));
        assert_eq!(meant("price"), None);
        assert_eq!(meant(&"x".repeat(100)), None);
    }
}
