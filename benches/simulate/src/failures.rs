//! What finds no result is named at once, while the rest goes on: the others may have taken hours.

use std::io::Write;

use anyhow::{Error, Result, ensure};

/// How many there were, and where each is named.
pub struct Failures<'a> {
    said: &'a mut dyn Write,
    count: usize,
}

impl<'a> Failures<'a> {
    /// None so far.
    pub fn named_to(said: &'a mut dyn Write) -> Self {
        Self { said, count: 0 }
    }

    /// One more.
    ///
    /// # Errors
    /// Nowhere to write.
    pub fn name(&mut self, error: &Error) -> Result<()> {
        self.count += 1;
        Ok(writeln!(self.said, "simulate: {error:#}")?)
    }

    /// After all.
    ///
    /// # Errors
    /// Where there was any.
    pub fn end(&self) -> Result<()> {
        ensure!(self.count == 0, "what is named above found no result ({} in all); the rest did", self.count);
        Ok(())
    }
}
