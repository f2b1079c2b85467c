CREATE STREAM s (
 a INT,
 b TXT
)