//! Server-sent events, line by line (<https://html.spec.whatwg.org/multipage/server-sent-events.html>).

/// Puts messages together from lines.
#[derive(Debug, Default)]
pub struct Reader {
    id: Option<String>,
    event: String,
    data: String,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Message {
    /// The position after it, if it has one, and what it says.
    Row { id: Option<String>, data: String },
    /// Something could not be read; what follows it can.
    Problem(String),
    /// The server ends the connection, and why.
    End(String),
    /// The same, and there is nothing to go on from: what was read is no more, or something else.
    Gone(String),
}

impl Reader {
    /// Takes in a line without its line break; a blank one ends a message.
    pub fn line(&mut self, line: &str) -> Option<Message> {
        if line.is_empty() {
            return self.finish();
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "id" => self.id = Some(value.to_owned()),
            "event" => value.clone_into(&mut self.event),
            "data" => {
                if !self.data.is_empty() {
                    self.data.push('\n');
                }
                self.data.push_str(value);
            }
            // Comments keep the connection open; `retry` is for browsers.
            _ => {}
        }
        None
    }

    fn finish(&mut self) -> Option<Message> {
        let data = std::mem::take(&mut self.data);
        let event = std::mem::take(&mut self.event);
        if data.is_empty() {
            return None;
        }
        Some(match event.as_str() {
            "error" => Message::Problem(data),
            // An empty id makes a browser forget the position.
            "end" if self.id.take().is_some_and(|id| id.is_empty()) => Message::Gone(data),
            "end" => Message::End(data),
            _ => Message::Row {
                id: self.id.take(),
                data,
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages(text: &str) -> Vec<Message> {
        let mut reader = Reader::default();
        text.lines().filter_map(|line| reader.line(line)).collect()
    }

    #[test]
    fn messages_have_ids_and_data() {
        let found = messages(": hello\n\nid: 0:4\ndata: {\"a\":1}\n\ndata:x\ndata:y\n\n");
        let first = Message::Row {
            id: Some("0:4".to_owned()),
            data: "{\"a\":1}".to_owned(),
        };
        let second = Message::Row {
            id: None,
            data: "x\ny".to_owned(),
        };
        assert_eq!(found, [first, second]);
    }

    #[test]
    fn problems_and_the_end_are_told_apart() {
        assert_eq!(
            messages("event: error\ndata: {}\n\n"),
            [Message::Problem("{}".to_owned())]
        );
        assert_eq!(
            messages("event: end\ndata: gone\n\n"),
            [Message::End("gone".to_owned())]
        );
        assert_eq!(
            messages("id: 0:4\ndata: {}\n\nevent: end\nid\ndata: replaced\n\n").last(),
            Some(&Message::Gone("replaced".to_owned()))
        );
    }
}
