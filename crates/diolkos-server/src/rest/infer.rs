// SPDX-License-Identifier: Apache-2.0
//! `POST v2/models/MODEL[/versions/VERSION]/infer`

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, Response};
use diolkos_types::{Code, Status};

use super::body::Packed;
use super::decode::{self, Decoded};
use super::error::HttpError;
use super::extract::Target;
use super::{answer, diolkos, encode, reply};
use crate::app::App;
use crate::oip::{self, Failed, metadata, offload, schedule};

pub(super) async fn infer(State(app): State<Arc<App>>, target: Target, request: Request) -> Response<Body> {
    answer(try_infer(&app, target, request).await)
}

async fn try_infer(app: &App, target: Target, request: Request) -> Result<Response<Body>, HttpError> {
    let (parts, body) = request.into_parts();
    let json_bytes = json_length(&parts.headers)?;
    let encoding = reply::wanted_encoding(&parts.headers);
    let packed = Packed::receive(&parts.headers, body, app.settings().limits.body_bytes_max.get()).await?;
    let session = target.session.clone();
    let Decoded { call, form } = match json_bytes {
        Some(0) => decode_raw(target, packed).await?,
        json_bytes => decode_json(target, packed, json_bytes).await?,
    };
    let explain = schedule::is_wanted(&parts.headers);
    let failed = |failed: Failed| of_failed(failed, explain);
    let done = oip::infer(&session, call).await.map_err(failed)?;
    tracing::debug!(job = %done.told.0, model = done.model, version = done.version, "answered");
    let (timing, told) = (done.timing, done.told);
    let as_text = encode::json_payload_bytes(&done, &form);
    let after = |status: Status| failed(Failed { status, told: Some(told) });
    check_text(as_text, app.settings().limits.body_bytes_max.get()).map_err(after)?;
    let encode = move || encode::encode(done, &form);
    let encoded = offload::run(&session.turn, as_text.saturating_mul(4), encode).await.map_err(after)?;
    let mut reply = reply::inference(&session.turn, encoded, encoding).await.map_err(after)?;
    diolkos::tell_timing(&mut reply, &timing);
    if explain {
        reply.headers_mut().insert(schedule::SCHEDULE, schedule::value(&told));
    }
    Ok(reply)
}

fn of_failed(failed: Failed, explain: bool) -> HttpError {
    let error = HttpError::from(failed.status);
    match failed.told.filter(|_| explain) {
        Some(told) => error.with_header(HeaderName::from_static(schedule::SCHEDULE), schedule::value(&told)),
        None => error,
    }
}

/// Text takes memory that no reservation pays for, so replies keep to the limit of bodies, too.
fn check_text(bytes: usize, bytes_max: u64) -> Result<(), Status> {
    if bytes as u64 <= bytes_max {
        return Ok(());
    }
    Err(Status::new(
        Code::TooLarge,
        format!(
            "the outputs have {bytes} bytes, and at most {bytes_max} go as JSON (`limits.body_bytes_max`); ask for them as binary data (`binary_data_output`)"
        ),
    ))
}

async fn decode_json(target: Target, packed: Packed, json_bytes: Option<usize>) -> Result<Decoded, Status> {
    let Target { model, version, session } = target;
    let json = json_bytes.unwrap_or(packed.len());
    // Unpacking and decoding take one turn, so that no more unpacked bodies wait than have a turn.
    offload::run(&session.turn, packed.unpack_bytes().max(json), move || {
        decode::decode(packed.unpack()?, json_bytes, model, version)
    })
    .await
}

async fn decode_raw(target: Target, packed: Packed) -> Result<Decoded, Status> {
    let Target { model, version, session } = target;
    let bound = metadata::bound(&session, &model, version).await?;
    offload::run(&session.turn, packed.unpack_bytes(), move || {
        let batched = metadata::max_batch_size(&bound) > 0;
        decode::raw::decode(packed.unpack()?, &bound.signature, batched, model, version)
    })
    .await
}

/// The value of `Inference-Header-Content-Length`.
fn json_length(headers: &HeaderMap) -> Result<Option<usize>, Status> {
    let mut values = headers.get_all(reply::JSON_LENGTH).iter();
    let Some(value) = values.next() else { return Ok(None) };
    let digits =
        value.to_str().ok().filter(|text| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()));
    let length = digits.and_then(|digits| digits.parse().ok()).filter(|_| values.next().is_none());
    length.map(Some).ok_or_else(|| {
        Status::invalid(
            "`Inference-Header-Content-Length` has to be given once, as the size of the JSON in bytes, or 0 for a raw body",
        )
    })
}
