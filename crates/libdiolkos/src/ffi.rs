// SPDX-License-Identifier: Apache-2.0
//! Every function of the library, and its only unsafe code.
//!
//! # What C promises
//!
//! The header says it to C programmers, and every `SAFETY` below refers to it. For as long as a call takes:
//!
//! * a pointer to a handle is NULL, or came from this library and was neither freed nor taken since;
//! * a text is NULL, or ends with a zero;
//! * an array is NULL, or has as many elements as the count beside it says;
//! * a struct that begins with its size is NULL, or has that many bytes;
//! * an out parameter is NULL, or can be written. It need not have been written before;
//! * no other thread uses a handle that only one may use, frees what is used here, or writes what is read here.
//!
//! Where a type can say that, it does: a handle is an `Option<&T>`, an out parameter an `Option<&mut MaybeUninit<T>>`,
//! and a function that takes nothing else has nothing unsafe to do. Texts, arrays and structs with a size are raw.

use std::ffi::{CStr, c_char, c_void};
use std::mem::MaybeUninit;
use std::time::Duration;
use std::{ptr, slice};

use ::diolkos_client::types::{Param, Params, RANK_MAX};
use ::diolkos_client::{AnyTensor, Client, RequestOptions, Unanswered};

use crate::errors::{Failure, guard, guard_free, guard_or, last_retry_after_us, with_last_text};
use crate::handles::{
    at, diolkos_client, diolkos_model, diolkos_model_list, diolkos_pending, diolkos_reply,
    diolkos_stats_list, diolkos_tensor, lost_tensor,
};
use crate::numbers::{class, code_name, data_type, data_type_name};
use crate::options::{diolkos_input, diolkos_options, diolkos_param_value, diolkos_request};
use crate::views::{
    diolkos_model_info, diolkos_model_stats, diolkos_output, diolkos_tensor_spec, diolkos_timing, models,
    stats,
};

/// Longest array of inputs, outputs or parameters. The protocol takes 256 tensors and 64 parameters; a count
/// beyond this was never set.
const COUNT_MAX: usize = 4096;

/// Largest struct that a program may have been compiled with; a size beyond this was never set.
const STRUCT_BYTES_MAX: usize = 4096;

/// Version of the library, such as "0.1.0".
#[unsafe(no_mangle)]
pub extern "C" fn diolkos_version() -> *const c_char {
    const VERSION: &CStr =
        match CStr::from_bytes_with_nul(concat!(env!("CARGO_PKG_VERSION"), "\0").as_bytes()) {
            Ok(version) => version,
            Err(_) => c"",
        };
    VERSION.as_ptr()
}

/// Why the last call of this thread that failed did so: a sentence, or "" if none has failed. It is valid until the next
/// call of this thread that fails; calls that succeed leave it alone, and so does freeing.
#[unsafe(no_mangle)]
pub extern "C" fn diolkos_error() -> *const c_char {
    with_last_text(CStr::as_ptr).unwrap_or(c"".as_ptr())
}

/// When it is worth sending again what the last failed call of this thread was about, in microseconds; 0 if the daemon
/// did not say. It does with DIOLKOS_STATUS_BUSY.
#[unsafe(no_mangle)]
pub extern "C" fn diolkos_retry_after_us() -> u64 {
    last_retry_after_us()
}

/// Name of a diolkos_code, such as "busy", for logs.
#[unsafe(no_mangle)]
pub extern "C" fn diolkos_code_name(code: i32) -> *const c_char {
    code_name(code).as_ptr()
}

/// Name of a diolkos_data_type, such as "FP32".
#[unsafe(no_mangle)]
pub extern "C" fn diolkos_data_type_name(data_type: i32) -> *const c_char {
    data_type_name(data_type).as_ptr()
}

/// Connects to a daemon. The address is unix:PATH, tcp:HOST:PORT, tls:HOST:PORT, or env: what $DIOLKOS_ENDPOINT says, or the default
/// socket. Options may be NULL.
#[doc = include_str!("safety.md")]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn diolkos_connect(
    address: *const c_char,
    options: *const diolkos_options,
    client: Option<&mut MaybeUninit<Option<Box<diolkos_client>>>>,
) -> i32 {
    guard(|| {
        let client = out(client, "`client`")?;
        // SAFETY: a text, as C promises.
        let address = unsafe { text(address, "`address`") }?;
        // SAFETY: a struct with its size, as C promises.
        let options = unsafe { sized(options) }?;
        // SAFETY: a text, as C promises of what is in the struct, too.
        let name = unsafe { text_or_null(options.name, "`options.name`") }?;
        // SAFETY: the same.
        let tenant = unsafe { text_or_null(options.tenant, "`options.tenant`") }?;
        let connected = Client::connect_with(address, options.options(name, tenant)?)?;
        *client = Some(Box::new(diolkos_client(connected)));
        Ok(())
    })
}

/// Frees a client; NULL is fine. The connection ends when everything that came from it is freed, too.
#[unsafe(no_mangle)]
pub extern "C" fn diolkos_client_free(client: Option<Box<diolkos_client>>) {
    guard_free(|| drop(client));
}

/// Whether tensors lie in memory that the daemon shares.
#[unsafe(no_mangle)]
pub extern "C" fn diolkos_shares_memory(client: Option<&diolkos_client>) -> bool {
    guard_or(|_| false, || Ok(handle(client, "`client`")?.0.shares_memory()))
}

/// Asks the daemon how it is. Live: it answers. Ready: every model that it was started with was loaded, or failed to be.
/// Either may be NULL.
#[unsafe(no_mangle)]
pub extern "C" fn diolkos_health(
    client: Option<&diolkos_client>,
    live: Option<&mut MaybeUninit<bool>>,
    ready: Option<&mut MaybeUninit<bool>>,
) -> i32 {
    guard(|| {
        let live = live.map(|live| live.write(false));
        let ready = ready.map(|ready| ready.write(false));
        let health = handle(client, "`client`")?.0.health()?;
        live.into_iter().for_each(|live| *live = health.live);
        ready.into_iter().for_each(|ready| *ready = health.ready);
        Ok(())
    })
}

/// Loads a model that is installed, where the daemon lets clients do that, and waits until it is loaded.
#[doc = include_str!("safety.md")]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn diolkos_load(client: Option<&diolkos_client>, name: *const c_char) -> i32 {
    guard(|| {
        let client = handle(client, "`client`")?;
        // SAFETY: a text, as C promises.
        let name = unsafe { text(name, "`name`") }?;
        Ok(client.0.load(name)?)
    })
}

/// Unloads a model, where the daemon lets clients do that.
#[doc = include_str!("safety.md")]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn diolkos_unload(client: Option<&diolkos_client>, name: *const c_char) -> i32 {
    guard(|| {
        let client = handle(client, "`client`")?;
        // SAFETY: a text, as C promises.
        let name = unsafe { text(name, "`name`") }?;
        Ok(client.0.unload(name)?)
    })
}

/// Asks which models there are.
#[unsafe(no_mangle)]
pub extern "C" fn diolkos_models(
    client: Option<&diolkos_client>,
    list: Option<&mut MaybeUninit<Option<Box<diolkos_model_list>>>>,
) -> i32 {
    guard(|| {
        let list = out(list, "`list`")?;
        let found = handle(client, "`client`")?.0.models()?;
        *list = Some(Box::new(diolkos_model_list(models(&found))));
        Ok(())
    })
}

/// How many models there are; 0 for NULL.
#[unsafe(no_mangle)]
pub extern "C" fn diolkos_model_list_count(list: Option<&diolkos_model_list>) -> usize {
    list.map_or(0, |list| list.0.as_slice().len())
}

/// One of them. It is valid until the list is freed.
#[unsafe(no_mangle)]
pub extern "C" fn diolkos_model_list_at(
    list: Option<&diolkos_model_list>,
    index: usize,
    model: Option<&mut MaybeUninit<*const diolkos_model_info>>,
) -> i32 {
    guard(|| {
        let model = view(model, "`model`")?;
        *model = at(&handle(list, "`list`")?.0, index, "model")?;
        Ok(())
    })
}

/// Frees a list; NULL is fine.
#[unsafe(no_mangle)]
pub extern "C" fn diolkos_model_list_free(list: Option<Box<diolkos_model_list>>) {
    guard_free(|| drop(list));
}

/// Asks what a model did so far; NULL for all of them.
#[doc = include_str!("safety.md")]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn diolkos_stats(
    client: Option<&diolkos_client>,
    name: *const c_char,
    list: Option<&mut MaybeUninit<Option<Box<diolkos_stats_list>>>>,
) -> i32 {
    guard(|| {
        let list = out(list, "`list`")?;
        let client = handle(client, "`client`")?;
        // SAFETY: a text, as C promises.
        let name = unsafe { text_or_null(name, "`name`") }?;
        *list = Some(Box::new(diolkos_stats_list(stats(&client.0.stats(name)?))));
        Ok(())
    })
}

/// How many entries there are; 0 for NULL.
#[unsafe(no_mangle)]
pub extern "C" fn diolkos_stats_list_count(list: Option<&diolkos_stats_list>) -> usize {
    list.map_or(0, |list| list.0.as_slice().len())
}

/// One of them. It is valid until the list is freed.
#[unsafe(no_mangle)]
pub extern "C" fn diolkos_stats_list_at(
    list: Option<&diolkos_stats_list>,
    index: usize,
    stats: Option<&mut MaybeUninit<*const diolkos_model_stats>>,
) -> i32 {
    guard(|| {
        let stats = view(stats, "`stats`")?;
        *stats = at(&handle(list, "`list`")?.0, index, "entry")?;
        Ok(())
    })
}

/// Frees a list; NULL is fine.
#[unsafe(no_mangle)]
pub extern "C" fn diolkos_stats_list_free(list: Option<Box<diolkos_stats_list>>) {
    guard_free(|| drop(list));
}

/// Opens a model or a built-in operation. Version 0 is whichever is current when a request comes.
#[doc = include_str!("safety.md")]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn diolkos_open(
    client: Option<&diolkos_client>,
    name: *const c_char,
    version: u64,
    model: Option<&mut MaybeUninit<Option<Box<diolkos_model>>>>,
) -> i32 {
    guard(|| {
        let model = out(model, "`model`")?;
        let client = &handle(client, "`client`")?.0;
        // SAFETY: a text, as C promises.
        let name = unsafe { text(name, "`name`") }?;
        let opened = if version == 0 { client.open(name) } else { client.open_version(name, version) };
        *model = Some(Box::new(diolkos_model::new(opened?)));
        Ok(())
    })
}

/// Frees a model; NULL is fine. The last use of it closes it in the daemon, and waits for that.
#[unsafe(no_mangle)]
pub extern "C" fn diolkos_model_free(model: Option<Box<diolkos_model>>) {
    guard_free(|| drop(model));
}

/// The version that was current when it was opened; 0 for NULL.
#[unsafe(no_mangle)]
pub extern "C" fn diolkos_model_version(model: Option<&diolkos_model>) -> u64 {
    guard_or(|_| 0, || Ok(handle(model, "`model`")?.model.version()))
}

/// How many inputs it has; 0 for NULL.
#[unsafe(no_mangle)]
pub extern "C" fn diolkos_model_input_count(model: Option<&diolkos_model>) -> usize {
    model.map_or(0, |model| model.inputs.as_slice().len())
}

/// How many outputs it has; 0 for NULL.
#[unsafe(no_mangle)]
pub extern "C" fn diolkos_model_output_count(model: Option<&diolkos_model>) -> usize {
    model.map_or(0, |model| model.outputs.as_slice().len())
}

/// One of its inputs. It is valid until the model is freed.
#[unsafe(no_mangle)]
pub extern "C" fn diolkos_model_input(
    model: Option<&diolkos_model>,
    index: usize,
    spec: Option<&mut MaybeUninit<*const diolkos_tensor_spec>>,
) -> i32 {
    guard(|| {
        let spec = view(spec, "`spec`")?;
        *spec = at(&handle(model, "`model`")?.inputs, index, "input")?;
        Ok(())
    })
}

/// One of its outputs. It is valid until the model is freed.
#[unsafe(no_mangle)]
pub extern "C" fn diolkos_model_output(
    model: Option<&diolkos_model>,
    index: usize,
    spec: Option<&mut MaybeUninit<*const diolkos_tensor_spec>>,
) -> i32 {
    guard(|| {
        let spec = view(spec, "`spec`")?;
        *spec = at(&handle(model, "`model`")?.outputs, index, "output")?;
        Ok(())
    })
}

/// Makes a tensor of a diolkos_data_type, with `rank` lengths of dimensions in `dims`, outermost first. Bytes is the size
/// of all elements; 0 means what follows from type and shape, which it does for all types but DIOLKOS_BYTES. The elements
/// are whatever was there before: fill all of them.
#[doc = include_str!("safety.md")]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn diolkos_tensor_new(
    client: Option<&diolkos_client>,
    data_type: i32,
    dims: *const u64,
    rank: usize,
    bytes: usize,
    tensor: Option<&mut MaybeUninit<Option<Box<diolkos_tensor>>>>,
) -> i32 {
    guard(|| {
        let tensor = out(tensor, "`tensor`")?;
        let client = &handle(client, "`client`")?.0;
        if rank > RANK_MAX {
            return Err(Failure::argument(format!("`rank` is {rank}, and the limit is {RANK_MAX}")));
        }
        // SAFETY: an array, as C promises.
        let dims = unsafe { list(dims, rank, "`dims`") }?;
        let made = diolkos_tensor::new(client, self::data_type(data_type)?, dims, bytes)?;
        *tensor = Some(Box::new(made));
        Ok(())
    })
}

/// Where the elements of a tensor lie, to be filled in place, and how many bytes they have; `bytes` may be NULL. The place
/// stays until the tensor is taken or freed, and is aligned for every type. NULL only for NULL.
#[unsafe(no_mangle)]
pub extern "C" fn diolkos_tensor_data(
    tensor: Option<&mut diolkos_tensor>,
    bytes: Option<&mut MaybeUninit<usize>>,
) -> *mut c_void {
    guard_or(
        |_| ptr::null_mut(),
        || {
            let bytes = bytes.map(|bytes| bytes.write(0));
            let data = tensor.ok_or_else(|| Failure::null("`tensor`"))?.bytes_mut()?;
            bytes.into_iter().for_each(|bytes| *bytes = data.len());
            Ok(data.as_mut_ptr().cast())
        },
    )
}

/// Frees a tensor; NULL is fine.
#[unsafe(no_mangle)]
pub extern "C" fn diolkos_tensor_free(tensor: Option<Box<diolkos_tensor>>) {
    guard_free(|| drop(tensor));
}

/// Sends a request and waits for its reply, for as long as that takes. The inputs may be in any order; the request may be
/// NULL. If this succeeds, the tensors belong to the reply, and NULL stands in their places in `inputs`; if it fails, they
/// are where they were, with the values that they had.
#[doc = include_str!("safety.md")]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn diolkos_infer(
    model: Option<&diolkos_model>,
    inputs: *mut diolkos_input,
    count: usize,
    request: *const diolkos_request,
    reply: Option<&mut MaybeUninit<Option<Box<diolkos_reply>>>>,
) -> i32 {
    guard(|| {
        let reply = out(reply, "`reply`")?;
        let model = &handle(model, "`model`")?.model;
        // SAFETY: a struct with its size, as C promises.
        let request = unsafe { request_options(request) }?;
        let ask = |inputs| {
            let mut pending = model.try_submit(inputs, request)?;
            loop {
                if let Some(reply) = pending.try_wait(Duration::MAX)? {
                    return Ok(reply);
                }
            }
        };
        // SAFETY: an array with texts and handles, as C promises.
        let answered = unsafe { with_tensors(inputs, count, ask) }?;
        *reply = Some(Box::new(answered.into()));
        Ok(())
    })
}

/// Sends a request. Many can be under way at once; if as many are as the client may have, this waits for one of them.
/// Arguments are those of diolkos_infer(), and tensors are taken if it succeeds.
#[doc = include_str!("safety.md")]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn diolkos_submit(
    model: Option<&diolkos_model>,
    inputs: *mut diolkos_input,
    count: usize,
    request: *const diolkos_request,
    pending: Option<&mut MaybeUninit<Option<Box<diolkos_pending>>>>,
) -> i32 {
    guard(|| {
        let pending = out(pending, "`pending`")?;
        let model = &handle(model, "`model`")?.model;
        // SAFETY: a struct with its size, as C promises.
        let request = unsafe { request_options(request) }?;
        let ask = |inputs| model.try_submit(inputs, request);
        // SAFETY: an array with texts and handles, as C promises.
        let sent = unsafe { with_tensors(inputs, count, ask) }?;
        *pending = Some(Box::new(diolkos_pending::new(sent)));
        Ok(())
    })
}

/// Waits for the reply, for so many milliseconds at most; 0 only looks, DIOLKOS_FOREVER has no end. After
/// DIOLKOS_ERROR_TIMEOUT the request is still under way, and can be waited for again. After anything else it has
/// ended, and only diolkos_pending_take_input() and diolkos_pending_free() are left.
#[unsafe(no_mangle)]
pub extern "C" fn diolkos_wait(
    pending: Option<&mut diolkos_pending>,
    timeout_ms: i64,
    reply: Option<&mut MaybeUninit<Option<Box<diolkos_reply>>>>,
) -> i32 {
    guard(|| {
        let reply = out(reply, "`reply`")?;
        let answered = pending.ok_or_else(|| Failure::null("`pending`"))?.wait(timeout_ms)?;
        *reply = Some(Box::new(answered));
        Ok(())
    })
}

/// Takes back an input of a request that failed, to send it again, for instance. Inputs are counted as they were
/// given, and each can be taken once. Those of a request that succeeded are in its reply.
#[unsafe(no_mangle)]
pub extern "C" fn diolkos_pending_take_input(
    pending: Option<&mut diolkos_pending>,
    index: usize,
    tensor: Option<&mut MaybeUninit<Option<Box<diolkos_tensor>>>>,
) -> i32 {
    guard(|| {
        let tensor = out(tensor, "`tensor`")?;
        let taken = pending.ok_or_else(|| Failure::null("`pending`"))?.take_input(index)?;
        *tensor = Some(Box::new(taken));
        Ok(())
    })
}

/// Frees a request; NULL is fine. If it is still under way, that cancels it.
#[unsafe(no_mangle)]
pub extern "C" fn diolkos_pending_free(pending: Option<Box<diolkos_pending>>) {
    guard_free(|| drop(pending));
}

/// How many outputs there are; 0 for NULL.
#[unsafe(no_mangle)]
pub extern "C" fn diolkos_reply_count(reply: Option<&diolkos_reply>) -> usize {
    reply.map_or(0, |reply| reply.outputs.as_slice().len())
}

/// One output, in the order that was asked for, or that of the model. It is valid until the reply is freed.
#[unsafe(no_mangle)]
pub extern "C" fn diolkos_reply_output(
    reply: Option<&diolkos_reply>,
    index: usize,
    output: Option<&mut MaybeUninit<*const diolkos_output>>,
) -> i32 {
    guard(|| {
        let output = view(output, "`output`")?;
        *output = at(&handle(reply, "`reply`")?.outputs, index, "output")?;
        Ok(())
    })
}

/// One output by its name. It is valid until the reply is freed.
#[doc = include_str!("safety.md")]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn diolkos_reply_named(
    reply: Option<&diolkos_reply>,
    name: *const c_char,
    output: Option<&mut MaybeUninit<*const diolkos_output>>,
) -> i32 {
    guard(|| {
        let output = view(output, "`output`")?;
        let reply = handle(reply, "`reply`")?;
        // SAFETY: a text, as C promises.
        let name = unsafe { text(name, "`name`") }?;
        *output = reply.outputs.named(name)?;
        Ok(())
    })
}

/// Version of the model that ran; 0 for NULL.
#[unsafe(no_mangle)]
pub extern "C" fn diolkos_reply_version(reply: Option<&diolkos_reply>) -> u64 {
    reply.map_or(0, |reply| reply.version)
}

/// Where the time went in the daemon. It is valid until the reply is freed.
#[unsafe(no_mangle)]
pub extern "C" fn diolkos_reply_timing(
    reply: Option<&diolkos_reply>,
    timing: Option<&mut MaybeUninit<*const diolkos_timing>>,
) -> i32 {
    guard(|| {
        let timing = view(timing, "`timing`")?;
        *timing = &raw const handle(reply, "`reply`")?.timing;
        Ok(())
    })
}

/// Takes back an input of the request, to be filled and sent again. Inputs are counted as they were given, and each can
/// be taken once. The outputs are left as they are.
#[unsafe(no_mangle)]
pub extern "C" fn diolkos_reply_take_input(
    reply: Option<&mut diolkos_reply>,
    index: usize,
    tensor: Option<&mut MaybeUninit<Option<Box<diolkos_tensor>>>>,
) -> i32 {
    guard(|| {
        let tensor = out(tensor, "`tensor`")?;
        let taken = reply.ok_or_else(|| Failure::null("`reply`"))?.inputs.take(index)?;
        *tensor = Some(Box::new(taken));
        Ok(())
    })
}

/// Frees a reply, and the inputs that were not taken; NULL is fine.
#[unsafe(no_mangle)]
pub extern "C" fn diolkos_reply_free(reply: Option<Box<diolkos_reply>>) {
    guard_free(|| drop(reply));
}

fn handle<'a, T>(handle: Option<&'a T>, what: &str) -> Result<&'a T, Failure> {
    handle.ok_or_else(|| Failure::null(what))
}

/// Where a new handle goes. NULL stands there until it does.
fn out<'a, T>(
    place: Option<&'a mut MaybeUninit<Option<Box<T>>>>,
    what: &str,
) -> Result<&'a mut Option<Box<T>>, Failure> {
    place.map(|place| place.write(None)).ok_or_else(|| Failure::null(what))
}

/// Where a pointer to a view goes. NULL stands there until it does.
fn view<'a, V>(
    place: Option<&'a mut MaybeUninit<*const V>>,
    what: &str,
) -> Result<&'a mut *const V, Failure> {
    place.map(|place| place.write(ptr::null())).ok_or_else(|| Failure::null(what))
}

/// # Safety
///
/// The pointer is NULL, or to a text that ends with a zero and stays as it is during `'a`.
unsafe fn text_or_null<'a>(pointer: *const c_char, what: &str) -> Result<Option<&'a str>, Failure> {
    if pointer.is_null() {
        return Ok(None);
    }
    // SAFETY: it is not NULL, and the caller vouches for the rest.
    let text = unsafe { CStr::from_ptr(pointer) };
    let text = text.to_str().map_err(|error| Failure::argument(format!("{what} is not UTF-8: {error}")))?;
    Ok(Some(text))
}

/// # Safety
///
/// As [`text_or_null`].
unsafe fn text<'a>(pointer: *const c_char, what: &str) -> Result<&'a str, Failure> {
    // SAFETY: the caller vouches for it.
    let text = unsafe { text_or_null(pointer, what) }?;
    text.ok_or_else(|| Failure::null(what))
}

/// The count beside an array, if that can be.
fn counted<T>(pointer: *const T, count: usize, what: &str) -> Result<(), Failure> {
    if pointer.is_null() {
        return Err(Failure::argument(format!("{what} is NULL, and {count} elements are said to be there")));
    }
    if !pointer.is_aligned() {
        return Err(Failure::argument(format!("{what} is not aligned")));
    }
    if count > COUNT_MAX {
        return Err(Failure::argument(format!("{what} has {count} elements, and the limit is {COUNT_MAX}")));
    }
    Ok(())
}

/// # Safety
///
/// The pointer is NULL, or to `count` elements that stay as they are during `'a`.
unsafe fn list<'a, T: Copy>(pointer: *const T, count: usize, what: &str) -> Result<&'a [T], Failure> {
    if count == 0 {
        return Ok(&[]);
    }
    counted(pointer, count, what)?;
    // SAFETY: it is neither NULL nor too long, and the caller vouches for the rest.
    Ok(unsafe { slice::from_raw_parts(pointer, count) })
}

/// A struct that begins with its size.
///
/// # Safety
///
/// Every bit pattern is a value of it, and it begins with a `usize`.
unsafe trait WithSize: Copy {
    /// What C calls it.
    const NAME: &'static str;
    /// Bytes that it had in the first version of this library, and that every program has.
    const BYTES_FIRST: usize;
    /// What counts where nothing is said: all zero, but for the size.
    const DEFAULTS: Self;
}

// SAFETY: it has integers and raw pointers, and `size` comes first.
unsafe impl WithSize for diolkos_options {
    const NAME: &'static str = "diolkos_options";
    const BYTES_FIRST: usize = size_of::<diolkos_options>();
    const DEFAULTS: diolkos_options = diolkos_options::DEFAULTS;
}

// SAFETY: it has integers and raw pointers, and `size` comes first.
unsafe impl WithSize for diolkos_request {
    const NAME: &'static str = "diolkos_request";
    const BYTES_FIRST: usize = size_of::<diolkos_request>();
    const DEFAULTS: diolkos_request = diolkos_request::DEFAULTS;
}

/// Copies as much of a struct as the program and this library both know. What only the program knows must be zero: then
/// it asks for nothing that this library can't do.
///
/// # Safety
///
/// The pointer is NULL, or to a `usize` and as many bytes from there on as that says.
unsafe fn sized<T: WithSize>(pointer: *const T) -> Result<T, Failure> {
    if pointer.is_null() {
        return Ok(T::DEFAULTS);
    }
    // SAFETY: it is not NULL, and the caller vouches for a `usize`.
    let size = unsafe { pointer.cast::<usize>().read_unaligned() };
    if !(T::BYTES_FIRST..=STRUCT_BYTES_MAX).contains(&size) {
        return Err(Failure::argument(format!("the size of a {} is {size}: set it to sizeof({0})", T::NAME)));
    }
    let known = size.min(size_of::<T>());
    let unknown = pointer.cast::<u8>().wrapping_add(known);
    // SAFETY: these bytes lie within the size that the caller vouches for.
    let unknown = unsafe { slice::from_raw_parts(unknown, size - known) };
    if unknown.iter().any(|&byte| byte != 0) {
        return Err(Failure::argument(format!(
            "the program sets a field of a {} that libdiolkos {} does not know",
            T::NAME,
            env!("CARGO_PKG_VERSION"),
        )));
    }
    let mut value = T::DEFAULTS;
    // SAFETY: both have so many bytes, and don't overlap, because one is a local variable. Any bytes are a `T`.
    unsafe { ptr::copy_nonoverlapping(pointer.cast::<u8>(), (&raw mut value).cast(), known) };
    Ok(value)
}

/// # Safety
///
/// The pointer is NULL, or to a struct with its size, and what that points to is as C promises.
unsafe fn request_options(pointer: *const diolkos_request) -> Result<RequestOptions, Failure> {
    // SAFETY: the caller vouches for it.
    let request = unsafe { sized(pointer) }?;
    // SAFETY: the caller vouches for what the struct points to.
    let names = unsafe { list(request.outputs, request.outputs_count, "`request.outputs`") }?;
    let mut outputs = Vec::with_capacity(names.len());
    for &name in names {
        // SAFETY: the same.
        outputs.push(unsafe { text(name, "a name in `request.outputs`") }?.to_owned());
    }
    // SAFETY: the same.
    let given = unsafe { list(request.params, request.params_count, "`request.params`") }?;
    let mut params = Params::new();
    for param in given {
        // SAFETY: the same.
        let name = unsafe { text(param.name, "a name in `request.params`") }?;
        // SAFETY: the same.
        params.set(name, unsafe { value(param.kind, param.value) }?);
    }
    Ok(RequestOptions {
        class: class(request.klass)?,
        timeout: (request.timeout_us > 0).then(|| Duration::from_micros(request.timeout_us)),
        params,
        outputs: (!outputs.is_empty()).then_some(outputs),
        once: request.once != 0,
    })
}

/// # Safety
///
/// The member that the kind names was written, and a text is one.
unsafe fn value(kind: i32, value: diolkos_param_value) -> Result<Param, Failure> {
    Ok(match kind {
        // SAFETY: every bit pattern is a number. The same holds for the next three.
        1 => Param::Bool(unsafe { value.flag } != 0),
        // SAFETY: as above.
        2 => Param::Int(unsafe { value.integer }),
        // SAFETY: as above.
        3 => Param::Uint(unsafe { value.natural }),
        // SAFETY: as above.
        4 => Param::Double(unsafe { value.number }),
        5 => {
            // SAFETY: every bit pattern is a raw pointer.
            let pointer = unsafe { value.text };
            // SAFETY: the caller vouches for a text.
            Param::Text(unsafe { text(pointer, "a text in `request.params`") }?.into())
        }
        _ => return Err(Failure::argument(format!("{kind} is no diolkos_param_type"))),
    })
}

/// Lets `ask` have the tensors. If it succeeds, their handles end; if not, they are as they were.
///
/// # Safety
///
/// The pointer is NULL, or to `count` inputs whose names are texts, and whose tensors are NULL or handles that nobody else
/// uses.
unsafe fn with_tensors<'a, T>(
    inputs: *mut diolkos_input,
    count: usize,
    ask: impl FnOnce(Vec<(&'a str, AnyTensor)>) -> Result<T, Unanswered>,
) -> Result<T, Failure> {
    let inputs: &mut [diolkos_input] = if count == 0 {
        &mut []
    } else {
        counted(inputs, count, "`inputs`")?;
        // SAFETY: it is neither NULL nor too long, and the caller vouches for the rest.
        unsafe { slice::from_raw_parts_mut(inputs, count) }
    };
    let mut names = Vec::with_capacity(inputs.len());
    for (index, input) in inputs.iter().enumerate() {
        if input.tensor.is_null() {
            return Err(Failure::null(&format!("`inputs[{index}].tensor`")));
        }
        // Of two exclusive references to one handle, the compiler would believe that they are two.
        if let Some(other) = inputs[..index].iter().position(|other| ptr::eq(other.tensor, input.tensor)) {
            return Err(Failure::argument(format!("inputs {other} and {index} are the same tensor")));
        }
        // SAFETY: a text, as the caller vouches.
        names.push(unsafe { text(input.name, "a name in `inputs`") }?);
    }
    let mut handles = Vec::with_capacity(inputs.len());
    for input in inputs.iter() {
        // SAFETY: it is not NULL, the caller vouches for a handle, and it is in this list once.
        handles.push(unsafe { &mut *input.tensor });
    }
    if handles.iter().any(|handle| !handle.has_value()) {
        return Err(lost_tensor());
    }
    let tensors = names.into_iter().zip(handles.iter_mut().filter_map(|handle| handle.take())).collect();
    match ask(tensors) {
        Ok(value) => {
            for input in inputs {
                let tensor = std::mem::replace(&mut input.tensor, ptr::null_mut());
                // SAFETY: every handle comes from a `Box`, and the pointer to it is gone from here.
                drop(unsafe { Box::from_raw(tensor) });
            }
            Ok(value)
        }
        Err(Unanswered { error, inputs }) => {
            handles.into_iter().zip(inputs).for_each(|(handle, tensor)| handle.put_back(tensor));
            Err(error.into())
        }
    }
}
