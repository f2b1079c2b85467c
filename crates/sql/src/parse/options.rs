//! `WITH (key = value, …)`. What the keys mean is for [`crate::define`].

use datafusion::sql::sqlparser::tokenizer::Token;

use crate::error::{Place, Result, SqlError};
use crate::parse::cursor::Cursor;
use crate::statement::{Name, OptionValue, StatementOption};

pub fn with(cursor: &mut Cursor) -> Result<Vec<StatementOption>> {
    let mut options: Vec<StatementOption> = Vec::new();
    if !cursor.take(&["with"]) {
        return Ok(options);
    }
    cursor.expect_token(&Token::LParen)?;
    loop {
        let option = option(cursor)?;
        if options.iter().any(|other| other.key.value == option.key.value) {
            return Err(
                SqlError::invalid(format!("the option {} is there twice", option.key.value)).at(option.key.place),
            );
        }
        options.push(option);
        if cursor.take_token(&Token::RParen) {
            return Ok(options);
        }
        if !cursor.take_token(&Token::Comma) {
            return Err(cursor.expected("a comma or a closing bracket after the option"));
        }
    }
}

fn option(cursor: &mut Cursor) -> Result<StatementOption> {
    let key = key(cursor)?;
    cursor.expect_token(&Token::Eq)?;
    let place = cursor.here();
    let value = value(cursor)?;
    Ok(StatementOption { key, value, place })
}

/// `partitions`, `http.path`, `'http.path'`, `"http.path"`
fn key(cursor: &mut Cursor) -> Result<Name> {
    let place = cursor.here();
    let mut value = String::new();
    loop {
        match cursor.parser.next_token().token {
            Token::Word(word) => value.push_str(&word.value.to_lowercase()),
            Token::SingleQuotedString(text) => value.push_str(&text),
            _ => {
                cursor.parser.prev_token();
                return Err(cursor.expected("the name of an option"));
            }
        }
        if !cursor.take_token(&Token::Period) {
            let place = Place {
                text: value.clone(),
                ..place
            };
            return Ok(Name { value, place });
        }
        value.push('.');
    }
}

fn value(cursor: &mut Cursor) -> Result<OptionValue> {
    let negative = cursor.take_token(&Token::Minus);
    let token = cursor.parser.next_token();
    let value = match token.token {
        Token::Number(number, _) if negative => OptionValue::Number(format!("-{number}")),
        Token::Number(number, _) => OptionValue::Number(number),
        Token::SingleQuotedString(text) if !negative => OptionValue::Text(text),
        Token::Word(word) if !negative && word.value.eq_ignore_ascii_case("true") => OptionValue::Boolean(true),
        Token::Word(word) if !negative && word.value.eq_ignore_ascii_case("false") => OptionValue::Boolean(false),
        _ => {
            cursor.parser.prev_token();
            return Err(cursor.expected("the option's value: a 'text', a number, true or false"));
        }
    };
    Ok(value)
}
