//! A text into statements, each with its tokens and its part of the text.

use std::sync::Arc;

use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::tokenizer::{Location, Span, Token, TokenWithSpan, Tokenizer};

use crate::error::{Place, Result, SqlError};
use crate::parse::{CHAIN_MAX, DIALECT, NESTING_MAX, QUERIES_MAX};
use crate::statement::Source;

/// One statement before it is understood.
#[derive(Debug)]
pub struct Piece {
    pub source: Source,
    /// Without spaces and comments; the last one is always `EOF`, with the place of the end.
    pub tokens: Vec<TokenWithSpan>,
}

pub fn split(text: Arc<str>) -> Result<Vec<Piece>> {
    let mut tokens = Vec::new();
    Tokenizer::new(&DIALECT, &text)
        .tokenize_with_location_into_buf(&mut tokens)
        .map_err(|error| unreadable(&text, &error.message, error.location))?;
    tokens.retain(|token| !matches!(token.token, Token::Whitespace(_)));
    let lines = line_starts(&text);
    tokens
        .split(|token| token.token == Token::SemiColon)
        .filter(|tokens| !tokens.is_empty())
        .map(|tokens| piece(&text, &lines, tokens))
        .collect()
}

fn piece(text: &Arc<str>, lines: &[usize], tokens: &[TokenWithSpan]) -> Result<Piece> {
    let start = tokens.first().map_or(Location::new(1, 1), |token| token.span.start);
    let end = tokens.last().map_or(start, |token| token.span.end);
    let source = Source::new(
        text.clone(),
        offset(text, lines, start)..offset(text, lines, end),
        start,
    );
    check_depth(&source, tokens)?;
    let mut tokens = tokens.to_vec();
    tokens.push(TokenWithSpan::new(Token::EOF, Span::new(end, end)));
    Ok(Piece { source, tokens })
}

/// Refuses what would make a tree so deep that walking it overflows the stack. Within brackets
/// operators chain to the left, one level each; a comma ends the chain. Queries make a level each
/// wherever they stand: side by side in a UNION, or one reading the other in a WITH.
fn check_depth(source: &Source, tokens: &[TokenWithSpan]) -> Result<()> {
    let mut chains = vec![0];
    let mut queries = 0;
    for token in tokens {
        if let Token::Word(word) = &token.token
            && matches!(
                word.keyword,
                Keyword::SELECT | Keyword::VALUES | Keyword::UNION | Keyword::EXCEPT | Keyword::INTERSECT
            )
        {
            queries += 1;
        }
        match &token.token {
            Token::LParen | Token::LBracket | Token::LBrace => chains.push(0),
            Token::RParen | Token::RBracket | Token::RBrace if chains.len() > 1 => {
                chains.pop();
            }
            Token::Comma => *last(&mut chains) = 0,
            Token::Word(word) if !chains_on(word.keyword) => {}
            Token::Number(..) | Token::SingleQuotedString(_) | Token::Period => {}
            _ => *last(&mut chains) += 1,
        }
        if chains.len() > NESTING_MAX * 2 || *last(&mut chains) > CHAIN_MAX {
            return Err(SqlError::syntax("the statement is nested too deeply")
                .at(source.place(token.span))
                .hint(format!(
                    "at most {CHAIN_MAX} operators in a row, {NESTING_MAX} levels of nesting"
                )));
        }
        if queries > QUERIES_MAX {
            return Err(SqlError::syntax("the statement holds too many queries")
                .at(source.place(token.span))
                .hint(format!(
                    "at most {QUERIES_MAX} of SELECT, VALUES, UNION, EXCEPT and INTERSECT"
                )));
        }
    }
    Ok(())
}

fn last(chains: &mut [usize]) -> &mut usize {
    let last = chains.len() - 1; // Never empty: the outermost level is not popped.
    &mut chains[last]
}

/// Words that add a level to the tree.
fn chains_on(keyword: Keyword) -> bool {
    use Keyword::*;
    matches!(
        keyword,
        AND | OR
            | NOT
            | XOR
            | IS
            | IN
            | LIKE
            | ILIKE
            | BETWEEN
            | UNION
            | EXCEPT
            | INTERSECT
            | JOIN
            | SIMILAR
            | CASE
            | COLLATE
            | AT
            | SELECT
    )
}

fn unreadable(text: &str, message: &str, location: Location) -> SqlError {
    let message = message.trim_end_matches('.').to_owned();
    let offset = crate::statement::offset_of(text, location);
    let found: String = text[offset..]
        .chars()
        .take_while(|c| !c.is_whitespace())
        .take(20)
        .collect();
    let message = match message.as_str() {
        "Unterminated string literal" => "the string that begins here has no closing quote".to_owned(),
        "Unexpected EOF while in a multi-line comment" => "a comment /* … has no closing */".to_owned(),
        _ => message,
    };
    SqlError::syntax(message).at(Place {
        line: location.line,
        column: location.column,
        text: found,
    })
}

fn line_starts(text: &str) -> Vec<usize> {
    std::iter::once(0)
        .chain(text.match_indices('\n').map(|(at, _)| at + 1))
        .collect()
}

fn offset(text: &str, lines: &[usize], location: Location) -> usize {
    let line = location.line.saturating_sub(1) as usize;
    let Some(&start) = lines.get(line) else {
        return text.len();
    };
    let column = location.column.saturating_sub(1) as usize;
    text[start..]
        .char_indices()
        .nth(column)
        .map_or(text.len(), |(offset, _)| start + offset)
}
