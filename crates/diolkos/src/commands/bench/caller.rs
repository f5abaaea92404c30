// SPDX-License-Identifier: Apache-2.0
//! One client of a server under load: a connection that is opened once, and the same request over and over.

use std::borrow::Cow;
use std::time::Duration;

use super::grpc::GrpcCaller;
use super::inproc::InprocCaller;
use super::native::NativeCaller;
use super::rest::RestCaller;
use crate::client::Address;
use crate::exit::{Exit, Failure};
use crate::tensor::Value;

/// How long one call may take until it counts as failed, so that a server that hangs does not hang us.
pub(super) const CALL_TIME_MAX: Duration = Duration::from_secs(60);

/// How a call ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The answer that was to be expected.
    Ok,
    /// Another one, or none: the status in the protocol's words, or what is wrong with the answer.
    Failed(Cow<'static, str>),
}

impl Outcome {
    /// A failure of a kind that is known beforehand.
    pub(crate) const fn failed(kind: &'static str) -> Outcome {
        Outcome::Failed(Cow::Borrowed(kind))
    }
}

/// Something that can be called again and again.
pub(crate) trait Call {
    /// Sends one request and takes the whole answer in.
    fn call(&mut self) -> impl Future<Output = Outcome> + Send;
}

/// Something that can be called from a thread of its own.
pub(crate) trait CallBlocking {
    /// Sends one request and takes the whole answer in.
    fn call_blocking(&mut self) -> Outcome;

    /// The same, and looks at the answer. The error says what is wrong with it, in a sentence.
    fn checked_call(&mut self, question: &Question) -> Result<(), String>;
}

/// How to reach what is measured.
#[derive(Clone, Debug)]
pub(crate) enum Route {
    /// REST with tensors in binary.
    Rest(Address),
    /// gRPC with raw tensors.
    Grpc(Address),
    /// The native channel.
    Native(Address),
    /// The engine in this process.
    Inproc(super::inproc::Local),
}

/// What is asked each time.
#[derive(Clone, Debug)]
pub(crate) struct Question {
    pub(crate) model: String,
    pub(crate) inputs: Vec<Value>,
    /// The answer is one tensor with the bytes of the first input.
    pub(crate) echoes: bool,
}

/// A client by any route.
pub(crate) enum Caller {
    Rest(Box<RestCaller>),
    Grpc(Box<GrpcCaller>),
    Native(Box<NativeCaller>),
    Inproc(Box<InprocCaller>),
}

impl Caller {
    /// Connects, and asks once to see that the answer is right.
    pub(crate) async fn open(route: &Route, question: &Question) -> Result<Caller, Failure> {
        let mut caller = match route {
            Route::Rest(address) => Caller::Rest(Box::new(RestCaller::open(address, question).await?)),
            Route::Grpc(address) => Caller::Grpc(Box::new(GrpcCaller::open(address, question).await?)),
            Route::Native(address) => Caller::Native(Box::new(NativeCaller::open(address, question)?)),
            Route::Inproc(local) => Caller::Inproc(Box::new(InprocCaller::open(local, question)?)),
        };
        match caller.checked_call(question).await {
            Ok(()) => Ok(caller),
            Err(reason) => {
                Err(Failure::new(Exit::Failed, format!("`{}` can't be measured", question.model))
                    .note(reason))
            }
        }
    }

    /// Several at once.
    pub(crate) async fn open_many(
        route: &Route,
        question: &Question,
        count: usize,
    ) -> Result<Vec<Caller>, Failure> {
        let mut callers = Vec::with_capacity(count);
        for _ in 0..count {
            callers.push(Caller::open(route, question).await?);
        }
        Ok(callers)
    }

    /// One call whose answer is looked at. The error says what is wrong with it, in a sentence.
    async fn checked_call(&mut self, question: &Question) -> Result<(), String> {
        match self {
            Caller::Rest(caller) => caller.checked_call(question).await,
            Caller::Grpc(caller) => caller.checked_call(question).await,
            Caller::Native(caller) => caller.checked_call(question),
            Caller::Inproc(caller) => caller.checked_call(question),
        }
    }
}

impl Call for Caller {
    async fn call(&mut self) -> Outcome {
        let call = async {
            match self {
                Caller::Rest(caller) => caller.call().await,
                Caller::Grpc(caller) => caller.call().await,
                Caller::Native(caller) => caller.call().await,
                Caller::Inproc(caller) => caller.call().await,
            }
        };
        tokio::time::timeout(CALL_TIME_MAX, call).await.unwrap_or(Outcome::failed("timeout"))
    }
}

/// Whether an answer is the input it should echo.
pub(super) fn check_echo(question: &Question, answer: &[u8]) -> Result<(), String> {
    let Some(input) = question.inputs.first().filter(|_| question.echoes) else { return Ok(()) };
    if answer == input.data {
        return Ok(());
    }
    Err(format!("the answer is not the input: {} bytes came back for {}", answer.len(), input.data.len()))
}
