//! sqlparser's parser over one statement, with our errors and places.

use datafusion::sql::sqlparser::ast::{self, Ident};
use datafusion::sql::sqlparser::parser::{Parser, ParserError};
use datafusion::sql::sqlparser::tokenizer::{Location, Span, Token, TokenWithSpan};
use headwater_catalog::snapshot::nearest;

use crate::error::{Place, Result, SqlError};
use crate::parse::split::Piece;
use crate::parse::{DIALECT, NESTING_MAX, rewrite};
use crate::statement::{Name, Source};

/// Words that a typo may have been meant as.
const KEYWORDS: [&str; 42] = [
    "SELECT",
    "FROM",
    "WHERE",
    "GROUP",
    "HAVING",
    "ORDER",
    "LIMIT",
    "OFFSET",
    "UNION",
    "JOIN",
    "CREATE",
    "REPLACE",
    "STREAM",
    "MATERIALIZED",
    "VIEW",
    "SOURCE",
    "WITH",
    "WATERMARK",
    "PARTITION",
    "DROP",
    "CASCADE",
    "SHOW",
    "STREAMS",
    "VIEWS",
    "SOURCES",
    "TABLES",
    "DESCRIBE",
    "EXPLAIN",
    "VERBOSE",
    "ANALYZE",
    "INSERT",
    "INTO",
    "VALUES",
    "EMIT",
    "CHANGES",
    "DEFAULT",
    "INTERVAL",
    "DISTINCT",
    "FILTER",
    "FORMAT",
    "ENCODE",
    "SET",
];

pub struct Cursor {
    pub source: Source,
    pub parser: Parser<'static>,
    /// What the parser was given, for places.
    tokens: Vec<TokenWithSpan>,
}

impl Cursor {
    pub fn new(piece: Piece) -> Self {
        Self {
            parser: parser(piece.tokens.clone()),
            source: piece.source,
            tokens: piece.tokens,
        }
    }

    /// A cursor over everything that is left of this one, which is then at its end.
    pub fn rest(&mut self) -> Piece {
        let start = self.parser.peek_token().span.start;
        let at = self.tokens.iter().position(|token| token.span.start == start);
        let tokens = self.tokens[at.unwrap_or(self.tokens.len() - 1)..].to_vec();
        while self.parser.next_token().token != Token::EOF {}
        Piece {
            source: self.source.from(start),
            tokens,
        }
    }

    /// The next word in lower case; none before anything else.
    pub fn peek_word(&self) -> Option<String> {
        match &self.parser.peek_token_ref().token {
            Token::Word(word) if word.quote_style.is_none() => Some(word.value.to_lowercase()),
            _ => None,
        }
    }

    /// Takes these words if they come next.
    pub fn take(&mut self, words: &[&str]) -> bool {
        let come_next = words
            .iter()
            .enumerate()
            .all(|(n, word)| rewrite::is_word(self.parser.peek_nth_token_ref(n), word));
        if come_next {
            words.iter().for_each(|_| self.parser.advance_token());
        }
        come_next
    }

    pub fn take_token(&mut self, token: &Token) -> bool {
        self.parser.consume_token(token)
    }

    pub fn expect(&mut self, word: &str) -> Result<()> {
        if self.take(&[word]) {
            Ok(())
        } else {
            Err(self.expected(&word.to_uppercase()))
        }
    }

    pub fn expect_token(&mut self, token: &Token) -> Result<()> {
        if self.take_token(token) {
            Ok(())
        } else {
            Err(self.expected(&token.to_string()))
        }
    }

    pub fn expect_end(&mut self) -> Result<()> {
        match self.parser.peek_token_ref().token {
            Token::EOF => Ok(()),
            _ => Err(self.expected("the end of the statement")),
        }
    }

    /// "expected …, found …" at the next token.
    pub fn expected(&self, what: &str) -> SqlError {
        let found = self.parser.peek_token();
        self.unexpected(what, &found)
    }

    /// An identifier; in lower case unless it is quoted.
    pub fn name(&mut self, what: &str) -> Result<Name> {
        let token = self.parser.peek_token();
        if !matches!(token.token, Token::Word(_)) {
            return Err(self.unexpected(what, &token));
        }
        let ident = self.parser.parse_identifier().map_err(|error| self.error(error))?;
        self.named(&ident, token.span)
    }

    /// The name of a stream or a view; `public.` may stand before it.
    pub fn object_name(&mut self, what: &str) -> Result<Name> {
        let name = self.name(what)?;
        if name.value == "public" && self.take_token(&Token::Period) {
            return self.name(what);
        }
        if self.parser.peek_token_ref().token == Token::Period {
            return Err(
                SqlError::unsupported("streams and views have no schemas other than public")
                    .at(self.here())
                    .hint("use the name alone"),
            );
        }
        Ok(name)
    }

    /// `(name, …)`
    pub fn names(&mut self, what: &str) -> Result<Vec<Name>> {
        self.expect_token(&Token::LParen)?;
        let mut names = vec![self.name(what)?];
        while self.take_token(&Token::Comma) {
            names.push(self.name(what)?);
        }
        self.expect_token(&Token::RParen)?;
        Ok(names)
    }

    pub fn expression(&mut self) -> Result<(ast::Expr, Place)> {
        let start = self.here();
        let expression = self.parser.parse_expr().map_err(|error| self.error(error))?;
        let place = Place {
            text: expression.to_string(),
            ..start
        };
        Ok((expression, place))
    }

    /// The place of the next token.
    pub fn here(&self) -> Place {
        self.place(&self.parser.peek_token())
    }

    pub fn place(&self, token: &TokenWithSpan) -> Place {
        self.source.place(token.span).unwrap_or_else(|| self.source.start())
    }

    /// What sqlparser says, in our words and with the place taken out of its message.
    pub fn error(&self, error: ParserError) -> SqlError {
        let message = match error {
            ParserError::RecursionLimitExceeded => {
                return SqlError::syntax("the statement is nested too deeply")
                    .at(self.source.start())
                    .hint(format!("at most {NESTING_MAX} levels of nesting"));
            }
            ParserError::ParserError(message) | ParserError::TokenizerError(message) => message,
        };
        let (message, location) = match message.rsplit_once(" at Line: ") {
            Some((message, at)) => (message.to_owned(), location(at)),
            None => (message, None),
        };
        let token = location.and_then(|start| self.tokens.iter().find(|token| token.span.start == start));
        let end = self.tokens.last();
        let token = if message.ends_with("found: EOF") {
            token.or(end)
        } else {
            token
        };
        if let (Some(expected), Some(token)) = (expected_of(&message), token) {
            return self.unexpected(&expected, token);
        }
        let error = SqlError::syntax(uncapitalized(&message));
        match (token, location) {
            (Some(token), _) => error.at(self.place(token)),
            (None, Some(start)) => error.at(self.source.place(Span::new(start, start))),
            (None, None) => error.at(self.source.start()),
        }
    }

    fn unexpected(&self, what: &str, found: &TokenWithSpan) -> SqlError {
        let place = self.place(found);
        let error = match found.token {
            Token::EOF => SqlError::syntax(format!("expected {what}, found the end of the statement")),
            _ => SqlError::syntax(format!("expected {what}, found {}", found.token)),
        };
        match self.typo(found) {
            Some((word, keyword)) => error.hint(format!("did you mean {keyword} instead of {word}?")),
            None => error,
        }
        .at(place)
    }

    /// A keyword that was misspelled at `found`, or right before it: there it was taken for a name.
    fn typo(&self, found: &TokenWithSpan) -> Option<(String, &'static str)> {
        let at = self
            .tokens
            .iter()
            .position(|token| token.span.start == found.span.start)?;
        [Some(at), at.checked_sub(1)].into_iter().flatten().find_map(|at| {
            let Token::Word(word) = &self.tokens[at].token else {
                return None;
            };
            let upper = word.value.to_uppercase();
            let swapped = KEYWORDS.into_iter().find(|keyword| letters(keyword) == letters(&upper));
            let keyword = swapped.or_else(|| nearest(&upper, KEYWORDS.into_iter()))?;
            (keyword != upper && word.quote_style.is_none()).then(|| (word.value.clone(), keyword))
        })
    }

    fn named(&self, ident: &Ident, span: Span) -> Result<Name> {
        let value = normalize(ident);
        let place = self.source.place(span).unwrap_or_else(|| self.source.start());
        if value.is_empty() || value.chars().count() > NAME_CHARS_MAX {
            return Err(SqlError::invalid(format!("a name has 1 to {NAME_CHARS_MAX} characters")).at(place));
        }
        Ok(Name { value, place })
    }
}

/// Topics and files are named after objects.
const NAME_CHARS_MAX: usize = 128;

pub fn parser(tokens: Vec<TokenWithSpan>) -> Parser<'static> {
    Parser::new(&DIALECT)
        .with_recursion_limit(NESTING_MAX)
        .with_tokens_with_locations(tokens)
}

pub fn normalize(ident: &Ident) -> String {
    match ident.quote_style {
        Some(_) => ident.value.clone(),
        None => ident.value.to_lowercase(),
    }
}

/// A word's letters in order: the same for words that differ by a swap.
fn letters(word: &str) -> Vec<char> {
    let mut letters: Vec<char> = word.chars().collect();
    letters.sort_unstable();
    letters
}

/// From `1, Column: 5`.
fn location(text: &str) -> Option<Location> {
    let (line, column) = text.split_once(", Column: ")?;
    Some(Location::new(line.parse().ok()?, column.parse().ok()?))
}

/// From `Expected: an expression, found: FROM`.
fn expected_of(message: &str) -> Option<String> {
    let (expected, _) = message.strip_prefix("Expected: ")?.split_once(", found: ")?;
    Some(
        expected
            .replace("end of statement", "the end of the statement")
            .trim_end_matches(':')
            .to_owned(),
    )
}

fn uncapitalized(text: &str) -> String {
    let mut chars = text.chars();
    match (chars.next(), chars.clone().next()) {
        (Some(first), Some(second)) if second.is_lowercase() => first.to_lowercase().chain(chars).collect(),
        _ => text.to_owned(),
    }
}
