//! What sqlparser doesn't understand, in words that it does. Tokens keep their places.
//!
//! * `… EMIT CHANGES` is taken off the end of a query.
//! * Flink's `TABLE(TUMBLE(TABLE t, DESCRIPTOR(ts), INTERVAL '1' MINUTE))` becomes
//!   `TUMBLE(t, ts, INTERVAL '1' MINUTE)`, and that `TUMBLE((SELECT * FROM t), …)`.
//! * `SESSION(t PARTITION BY a, b, ts, …)` becomes `SESSION(t, a, b, ts, …)`.
//! * `t FOR SYSTEM_TIME AS OF …` becomes a function, see [`super::as_of`].
//! * A `?` is the operator, not a parameter.
//! * Constructs that are not there yet and that sqlparser would stumble over are refused by name.

use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan};

use crate::error::{Result, SqlError};
use crate::parse::as_of::as_of;
use crate::statement::Source;

/// The tokens of a query without `EMIT CHANGES`, and whether it was there.
pub fn query(source: &Source, mut tokens: Vec<TokenWithSpan>) -> Result<(Vec<TokenWithSpan>, bool)> {
    refuse(source, &tokens)?;
    question_marks(&mut tokens);
    let emit_changes = take_emit_changes(source, &mut tokens)?;
    let tokens = as_of(source, tokens)?;
    Ok((named_tables(shorten(tokens)), emit_changes))
}

/// `a ? 'b'` asks whether the JSON `a` has the key `b`; to sqlparser a `?` is a parameter, and ours are
/// `$1`, `$2`, ….
fn question_marks(tokens: &mut [TokenWithSpan]) {
    for token in tokens {
        if matches!(&token.token, Token::Placeholder(text) if text == "?") {
            token.token = Token::Question;
        }
    }
}

fn take_emit_changes(source: &Source, tokens: &mut Vec<TokenWithSpan>) -> Result<bool> {
    let end = tokens.len() - usize::from(is_eof(tokens.last()));
    let Some(emit) = tokens[..end].iter().rposition(|token| is_word(token, "emit")) else {
        return Ok(false);
    };
    // Only at the end: elsewhere `emit` may be a column.
    if emit + 2 == end && is_word(&tokens[emit + 1], "changes") {
        tokens.drain(emit..end);
        return Ok(true);
    }
    if emit > 0 && emit + 2 == end && matches!(&tokens[emit + 1].token, Token::Word(_)) {
        return Err(SqlError::syntax("expected CHANGES after EMIT").at(source.place(tokens[emit + 1].span)));
    }
    Ok(false)
}

/// Removes `TABLE(`…`)` around window functions, `TABLE` before their table and `DESCRIPTOR(`…`)`
/// around their column; puts a comma for `PARTITION BY`.
fn shorten(mut tokens: Vec<TokenWithSpan>) -> Vec<TokenWithSpan> {
    let mut removed = vec![false; tokens.len()];
    for at in 0..tokens.len() {
        if !is_window(&tokens, at) {
            continue;
        }
        let Some(close) = closing(&tokens, at + 1) else {
            continue;
        };
        if at >= 2
            && is_word(&tokens[at - 2], "table")
            && tokens[at - 1].token == Token::LParen
            && tokens.get(close + 1).is_some_and(|token| token.token == Token::RParen)
        {
            (removed[at - 2], removed[at - 1], removed[close + 1]) = (true, true, true);
        }
        removed[at + 2] |= is_word(&tokens[at + 2], "table");
        if let Some(partition) = partition_by(&tokens, at + 1, close) {
            tokens[partition].token = Token::Comma;
            removed[partition + 1] = true;
        }
        for inside in at + 2..close {
            if is_word(&tokens[inside], "descriptor")
                && tokens[inside + 1].token == Token::LParen
                && let Some(end) = closing(&tokens, inside + 1)
            {
                (removed[inside], removed[inside + 1], removed[end]) = (true, true, true);
            }
        }
    }
    let mut removed = removed.into_iter();
    tokens.retain(|_| !removed.next().unwrap_or(false));
    tokens
}

/// `TUMBLE(t, …` becomes `TUMBLE((SELECT * FROM t), …`, so that whoever looks for the tables of a
/// query finds this one.
fn named_tables(tokens: Vec<TokenWithSpan>) -> Vec<TokenWithSpan> {
    let mut out = Vec::with_capacity(tokens.len());
    let mut close_at = None;
    for at in 0..tokens.len() {
        let token = tokens[at].clone();
        let span = token.span;
        let put = |token: Token| TokenWithSpan::new(token, span);
        if close_at == Some(at) {
            out.push(put(Token::RParen));
        }
        if at >= 2 && is_window(&tokens, at - 2) {
            let name = tokens[at..].iter();
            let length = name
                .take_while(|token| matches!(token.token, Token::Word(_) | Token::Period))
                .count();
            if length > 0 && tokens.get(at + length).is_some_and(|next| next.token == Token::Comma) {
                close_at = Some(at + length);
                let select = [
                    Token::LParen,
                    Token::make_keyword("SELECT"),
                    Token::Mul,
                    Token::make_keyword("FROM"),
                ];
                out.extend(select.map(put));
            }
        }
        out.push(token);
    }
    out
}

fn refuse(source: &Source, tokens: &[TokenWithSpan]) -> Result<()> {
    for pair in tokens.windows(2) {
        if pair[1].token != Token::LParen || !is_word(&pair[0], "match_recognize") {
            continue;
        }
        return Err(
            SqlError::unsupported("MATCH_RECOGNIZE is not available in this version")
                .at(source.place(pair[0].span))
                .hint("what is: aggregates over TUMBLE, HOP, CUMULATE and SESSION windows"),
        );
    }
    Ok(())
}

fn is_window(tokens: &[TokenWithSpan], at: usize) -> bool {
    let named = ["tumble", "hop", "cumulate", "session"]
        .iter()
        .any(|name| is_word(&tokens[at], name));
    named && tokens.get(at + 1).is_some_and(|next| next.token == Token::LParen)
}

/// Where `PARTITION BY` stands right within the brackets at `open` and `close`.
fn partition_by(tokens: &[TokenWithSpan], open: usize, close: usize) -> Option<usize> {
    let mut depth = 0_usize;
    (open..close).find(|&at| {
        match tokens[at].token {
            Token::LParen => depth += 1,
            Token::RParen => depth = depth.saturating_sub(1),
            _ => {}
        }
        depth == 1 && is_word(&tokens[at], "partition") && is_word(&tokens[at + 1], "by")
    })
}

/// The index of the bracket that closes the one at `open`.
fn closing(tokens: &[TokenWithSpan], open: usize) -> Option<usize> {
    let mut depth = 0_usize;
    for (at, token) in tokens.iter().enumerate().skip(open) {
        match token.token {
            Token::LParen => depth += 1,
            Token::RParen => {
                depth = depth.checked_sub(1)?;
                if depth == 0 {
                    return Some(at);
                }
            }
            _ => {}
        }
    }
    None
}

/// Whether it is this word, unquoted, in any case.
pub fn is_word(token: &TokenWithSpan, expected: &str) -> bool {
    matches!(&token.token, Token::Word(word) if word.quote_style.is_none() && word.value.eq_ignore_ascii_case(expected))
}

fn is_eof(token: Option<&TokenWithSpan>) -> bool {
    token.is_some_and(|token| token.token == Token::EOF)
}
