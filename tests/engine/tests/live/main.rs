//! The engine in process, with real sockets: what a caller sees of it.

#[cfg(test)]
mod abort;
#[cfg(test)]
mod caller;
#[cfg(test)]
mod errors;
#[cfg(test)]
mod faults;
#[cfg(test)]
mod pages;
#[cfg(test)]
mod streams;
