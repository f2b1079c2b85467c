//! The least HTTP/1.1 client there can be: a keep-alive connection that sends prepared bytes and
//! reads whole answers. It shares the cores with the server, so whatever it costs is not measured
//! twice.

use std::io;
use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// More than any answer of the benchmarks.
const ANSWER_BYTES_MAX: usize = 1 << 20;

#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    answer: Vec<u8>,
}

/// A request as it goes over the wire.
pub fn request(method: &str, path: &str, content_type: &str, body: &[u8]) -> Vec<u8> {
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: {content_type}\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

impl Connection {
    pub async fn open(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self {
            stream,
            answer: Vec::with_capacity(4096),
        })
    }

    /// Sends a request and reads its answer: the status and the body.
    pub async fn send(&mut self, request: &[u8]) -> io::Result<(u16, &[u8])> {
        self.stream.write_all(request).await?;
        self.answer.clear();
        loop {
            if self.stream.read_buf(&mut self.answer).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if let Some((status, from, to)) = whole(&self.answer)? {
                return Ok((status, &self.answer[from..to]));
            }
            if self.answer.len() > ANSWER_BYTES_MAX {
                return Err(io::Error::other("the answer is too long"));
            }
        }
    }

    /// As [`Connection::send`], and anything but a 200 is an error with the answer in it.
    pub async fn expect_ok(&mut self, request: &[u8]) -> io::Result<&[u8]> {
        match self.send(request).await? {
            (200, body) => Ok(body),
            (status, body) => {
                let body = String::from_utf8_lossy(body);
                Err(io::Error::other(format!("answered {status}: {body}")))
            }
        }
    }
}

/// Status and place of the body, once the answer is there as a whole.
fn whole(answer: &[u8]) -> io::Result<Option<(u16, usize, usize)>> {
    let Some(head) = memchr::memmem::find(answer, b"\r\n\r\n") else {
        return Ok(None);
    };
    let text = std::str::from_utf8(&answer[..head]).map_err(io::Error::other)?;
    let status = text.get(9..12).and_then(|status| status.parse().ok());
    let status = status.ok_or_else(|| io::Error::other("no status"))?;
    let length = text.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length")
            .then(|| value.trim().parse::<usize>().ok())?
    });
    let length = length.ok_or_else(|| io::Error::other("an answer without content-length"))?;
    let from = head + 4;
    Ok((answer.len() >= from + length).then_some((status, from, from + length)))
}
