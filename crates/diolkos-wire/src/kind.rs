// SPDX-License-Identifier: Apache-2.0
//! Numbers of the messages. They are part of the protocol and never reused.

/// Set in the number of every answer.
const ANSWER: u16 = 0x8000;

macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident = $number:literal,)*) => {
        /// The kind of a message. A request's number is below 0x8000; the answer that belongs to one request
        /// only has its number with the top bit set.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u16)]
        pub enum Kind {
            $($(#[$doc])* $name = $number,)*
        }

        impl Kind {
            /// Every kind, in the order of their numbers.
            pub const ALL: &[Kind] = &[$(Kind::$name),*];

            /// The kind with this number.
            #[must_use]
            pub const fn from_number(number: u16) -> Option<Kind> {
                match number {
                    $($number => Some(Kind::$name),)*
                    _ => None,
                }
            }
        }
    };
}

kinds! {
    /// The client's first message.
    Hello = 0x0001,
    /// The sender ends the connection in good order. Either side; no answer.
    Goodbye = 0x0002,
    /// Is the daemon there, and ready?
    Health = 0x0003,
    /// Nobody waits for the request with this id any more. No answer of its own.
    Cancel = 0x0004,
    /// Make rings.
    OpenChannel = 0x0010,
    /// Map a region.
    RegisterRegion = 0x0011,
    /// Give a region back.
    CloseRegion = 0x0012,
    /// A region is complete: lend it.
    CommitRegion = 0x0013,
    /// Open a model or a built-in operation.
    OpenModel = 0x0020,
    /// Close a handle.
    CloseModel = 0x0021,
    /// Run an operation.
    Infer = 0x0022,
    /// Load a model.
    Load = 0x0030,
    /// Unload a model.
    Unload = 0x0031,
    /// Which models are there?
    List = 0x0032,
    /// What was done so far?
    Stats = 0x0033,
    /// Answers [`Kind::Hello`].
    Welcome = 0x8001,
    /// Answers [`Kind::Health`].
    HealthReply = 0x8003,
    /// Answers [`Kind::OpenChannel`].
    ChannelOpened = 0x8010,
    /// Answers [`Kind::OpenModel`].
    ModelOpened = 0x8020,
    /// Answers [`Kind::Infer`].
    Inferred = 0x8022,
    /// Answers [`Kind::List`].
    Models = 0x8032,
    /// Answers [`Kind::Stats`].
    StatsReply = 0x8033,
    /// Done, and there is nothing to tell.
    Done = 0xfffe,
    /// Any request that got no result.
    Failed = 0xffff,
}

impl Kind {
    /// The number on the wire.
    #[must_use]
    pub const fn number(self) -> u16 {
        self as u16
    }

    /// Whether it answers a request.
    #[must_use]
    pub const fn is_answer(self) -> bool {
        self.number() & ANSWER != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_unique_and_lead_back() {
        assert!(Kind::ALL.is_sorted_by(|before, after| before.number() < after.number()));
        for &kind in Kind::ALL {
            assert_eq!(Kind::from_number(kind.number()), Some(kind));
        }
        assert_eq!(Kind::from_number(0), None);
    }

    #[test]
    fn answers_have_the_number_of_their_request() {
        let general = [Kind::Done, Kind::Failed];
        for &kind in Kind::ALL.iter().filter(|kind| kind.is_answer() && !general.contains(kind)) {
            let request = Kind::from_number(kind.number() & !ANSWER);
            assert!(request.is_some_and(|request| !request.is_answer()), "{kind:?} answers nothing");
        }
    }
}
