//! Rows by key, as bytes: what an entry of [`super`] holds.
//!
//! A list is groups, one behind the other: the length of the key, the key, and then the rows, each with its length
//! plus two before it. A 0 ends the group. A 1 stands for rows that are elsewhere, and the number of the place follows.
//! Numbers are of seven bits a byte, the lowest first. A key may have several groups.

use crate::error::{Error, Result};

const END: u64 = 0;
const ELSEWHERE: u64 = 1;
const ROW: u64 = 2;

/// A group of a list, as it stands there.
#[derive(Clone, Copy)]
pub struct Listed<'a> {
    pub key: &'a [u8],
    /// Without the end.
    pub items: &'a [u8],
}

pub enum Item<'a> {
    Row(&'a [u8]),
    Elsewhere(u64),
}

pub fn put_key(list: &mut Vec<u8>, key: &[u8]) {
    put_number(list, key.len() as u64);
    list.extend_from_slice(key);
}

pub fn put_row(list: &mut Vec<u8>, row: &[u8]) {
    put_number(list, row.len() as u64 + ROW);
    list.extend_from_slice(row);
}

pub fn put_elsewhere(list: &mut Vec<u8>, place: u64) {
    put_number(list, ELSEWHERE);
    put_number(list, place);
}

pub fn put_end(list: &mut Vec<u8>) {
    put_number(list, END);
}

pub fn put_listed(list: &mut Vec<u8>, listed: Listed<'_>) {
    put_key(list, listed.key);
    list.extend_from_slice(listed.items);
    put_end(list);
}

/// The groups of a list.
pub fn groups(mut list: &[u8]) -> impl Iterator<Item = Result<Listed<'_>>> {
    std::iter::from_fn(move || (!list.is_empty()).then(|| take_group(&mut list).ok_or_else(damaged)))
        // What comes after damage can't be made out.
        .scan(false, |is_over, group| {
            let before = std::mem::replace(is_over, group.is_err());
            (!before).then_some(group)
        })
}

impl<'a> Listed<'a> {
    /// What [`groups`] has gone through already is not damaged.
    pub fn items(self) -> impl Iterator<Item = Item<'a>> {
        let mut rest = self.items;
        std::iter::from_fn(move || take_item(&mut rest)?)
    }
}

fn take_group<'a>(list: &mut &'a [u8]) -> Option<Listed<'a>> {
    let length = take_number(list)?;
    let key = take(list, length)?;
    let items = *list;
    loop {
        let before = list.len();
        if take_item(list)?.is_none() {
            let length = items.len() - before;
            return Some(Listed {
                key,
                items: &items[..length],
            });
        }
    }
}

/// The inner `None` is the end.
#[expect(
    clippy::option_option,
    reason = "no item because it is damaged, and none because it is the end"
)]
fn take_item<'a>(list: &mut &'a [u8]) -> Option<Option<Item<'a>>> {
    Some(match take_number(list)? {
        END => None,
        ELSEWHERE => Some(Item::Elsewhere(take_number(list)?)),
        length => Some(Item::Row(take(list, length - ROW)?)),
    })
}

fn take<'a>(list: &mut &'a [u8], length: u64) -> Option<&'a [u8]> {
    let (taken, rest) = list.split_at_checked(usize::try_from(length).ok()?)?;
    *list = rest;
    Some(taken)
}

fn put_number(list: &mut Vec<u8>, mut number: u64) {
    while number > 0x7f {
        list.push(number as u8 | 0x80);
        number >>= 7;
    }
    list.push(number as u8);
}

fn take_number(list: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for place in 0..10 {
        let (&byte, rest) = list.split_first()?;
        *list = rest;
        number |= u64::from(byte & 0x7f) << (7 * place);
        if byte < 0x80 {
            return Some(number);
        }
    }
    None
}

pub fn damaged() -> Error {
    Error::State {
        place: "a join".to_owned(),
        what: "an entry is not of the form it was written in".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_put_is_found() {
        let mut list = Vec::new();
        let long = vec![7; 300];
        put_key(&mut list, b"key");
        put_row(&mut list, b"");
        put_row(&mut list, &long);
        put_elsewhere(&mut list, 1 << 40);
        put_end(&mut list);
        put_key(&mut list, b"");
        put_end(&mut list);

        let found: Vec<_> = groups(&list).map(Result::unwrap).collect();
        assert_eq!(
            found.iter().map(|group| group.key).collect::<Vec<_>>(),
            [&b"key"[..], b""]
        );
        let items: Vec<_> = found[0].items().collect();
        assert!(
            matches!(items[..], [Item::Row(b""), Item::Row(row), Item::Elsewhere(place)] if row == long && place == 1 << 40)
        );
        assert_eq!(found[1].items().count(), 0);

        let mut copy = Vec::new();
        found.iter().for_each(|group| put_listed(&mut copy, *group));
        assert_eq!(copy, list);
    }

    #[test]
    fn damage_is_an_error_and_the_end() {
        let mut list = Vec::new();
        put_key(&mut list, b"key");
        put_row(&mut list, b"a row");
        put_end(&mut list);
        for length in 1..list.len() {
            let found: Vec<_> = groups(&list[..length]).collect();
            assert!(found.len() == 1 && found[0].is_err(), "{length}");
        }
        assert!(groups(&[0xff; 20]).next().unwrap().is_err());
    }
}
