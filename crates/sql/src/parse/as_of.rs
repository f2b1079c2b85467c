//! `rates FOR SYSTEM_TIME AS OF bids.time` in FROM, which sqlparser's generic dialect doesn't have.
//!
//! It becomes a table function, `$as_of((SELECT * FROM rates), bids.time)`, and where the time is `now()`,
//! `$as_of((SELECT * FROM rates))`.

use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan, Word};

use crate::error::{Result, SqlError};
use crate::parse::rewrite::is_word;
use crate::statement::Source;

/// Nobody can write it without quotes.
pub const AS_OF: &str = "$as_of";

const WORDS: [&str; 4] = ["for", "system_time", "as", "of"];
/// What stands for the present.
const NOW: [&str; 2] = ["now", "proctime"];

pub fn as_of(source: &Source, tokens: Vec<TokenWithSpan>) -> Result<Vec<TokenWithSpan>> {
    let mut out: Vec<TokenWithSpan> = Vec::with_capacity(tokens.len());
    let mut at = 0;
    while at < tokens.len() {
        if !is_clause(&tokens[at..]) {
            out.push(tokens[at].clone());
            at += 1;
            continue;
        }
        let clause = &tokens[at];
        let name = out.split_off(out.len() - name_length(out.iter().rev()));
        if name.is_empty() {
            return Err(
                SqlError::unsupported("FOR SYSTEM_TIME AS OF stands behind the name of a stream or a view")
                    .at(source.place(clause.span))
                    .hint("make a derived stream of what comes before it: CREATE STREAM … AS SELECT …"),
            );
        }
        let after = &tokens[at + WORDS.len()..];
        let length = name_length(after.iter());
        let (time, length) = match &after[..length] {
            [word] if is_word(word, "current_timestamp") => (&after[..0], 1),
            [word] if is_call(&after[1..]) && NOW.iter().any(|now| is_word(word, now)) => (&after[..0], 3),
            _ => (&after[..length], length),
        };
        if length == 0 || after.get(length).is_some_and(goes_on) {
            let place = after.first().map_or(clause.span, |token| token.span);
            return Err(
                SqlError::unsupported("FOR SYSTEM_TIME AS OF takes a column with event time, or now()")
                    .at(source.place(place))
                    .hint("compute another time in a derived stream with a WATERMARK of its own"),
            );
        }
        let put = |token: Token| TokenWithSpan::new(token, name[0].span);
        out.extend(
            [
                Token::Word(Word {
                    value: AS_OF.to_owned(),
                    quote_style: Some('"'),
                    keyword: Keyword::NoKeyword,
                }),
                Token::LParen,
                Token::LParen,
                Token::make_keyword("SELECT"),
                Token::Mul,
                Token::make_keyword("FROM"),
            ]
            .map(put),
        );
        out.extend_from_slice(&name);
        out.push(put(Token::RParen));
        if !time.is_empty() {
            out.push(put(Token::Comma));
            out.extend_from_slice(time);
        }
        out.push(put(Token::RParen));
        at += WORDS.len() + length;
    }
    Ok(out)
}

fn is_clause(tokens: &[TokenWithSpan]) -> bool {
    tokens.len() > WORDS.len() && tokens.iter().zip(WORDS).all(|(token, word)| is_word(token, word))
}

/// How many tokens a name has: words, with periods between them. From either end.
fn name_length<'a>(tokens: impl Iterator<Item = &'a TokenWithSpan>) -> usize {
    let is_next = |(place, token): &(usize, &TokenWithSpan)| match &token.token {
        Token::Word(_) => place % 2 == 0,
        Token::Period => place % 2 == 1,
        _ => false,
    };
    let length = tokens.enumerate().take_while(is_next).count();
    // Without a period at the end.
    length - usize::from(length > 0 && length.is_multiple_of(2))
}

fn is_call(tokens: &[TokenWithSpan]) -> bool {
    matches!(tokens, [open, close, ..] if open.token == Token::LParen && close.token == Token::RParen)
}

/// Whether the time is more than a name.
fn goes_on(token: &TokenWithSpan) -> bool {
    matches!(
        token.token,
        Token::Plus
            | Token::Minus
            | Token::Mul
            | Token::Div
            | Token::Period
            | Token::LParen
            | Token::LBracket
            | Token::DoubleColon
            | Token::SingleQuotedString(_)
    )
}
