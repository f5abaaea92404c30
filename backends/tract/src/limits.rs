// SPDX-License-Identifier: Apache-2.0
//! Every bound of this crate, with its reason.

/// Nodes of a model, those of nested graphs included.
///
/// The largest transformer exports have some 20,000. tract's optimiser is worse than linear in this
/// number, so that without a bound a small file could keep a load busy for hours.
pub(crate) const NODES_MAX: usize = 1 << 16;

/// Graphs inside graphs (`If`, `Scan`). Parsing and optimising recurse once per level.
pub(crate) const NESTING_MAX: usize = 8;

/// Length of the text of a symbolic dimension, such as `batch` or `floor(w/2)+1`.
pub(crate) const DIM_TEXT_BYTES_MAX: usize = 64;

/// Longest fixed dimension of an input. Far beyond any real tensor, and small enough that tract's
/// 64-bit dimension arithmetic has room for products of constants and dimensions.
pub(crate) const FIXED_DIM_MAX: i64 = 1 << 32;

/// Plans for given shapes that a model keeps, when its weights are small.
///
/// A client with fixed shapes needs one; a few cover clients whose batch sizes differ. A plan holds its
/// own packed copy of the weights, which is why there are not more.
pub(crate) const PLANS_MAX: usize = 6;

/// Bytes of weights that the cached plans of one model may hold together, unless a single plan has more.
pub(crate) const PLAN_CACHE_BYTES_MAX: u64 = 128 << 20;

/// Keys for which it is remembered that no plan can be built, so that a client that repeats a bad
/// request does not make the optimiser work each time. A key is at most a few kilobytes.
pub(crate) const FAILED_KEYS_MAX: usize = 64;

/// Elements of an input whose value may become part of a plan. Shapes, axes, pads and scales have at
/// most twice as many as a tensor has dimensions.
pub(crate) const VALUE_ELEMENTS_MAX: usize = 64;

/// Elements that a tensor made from such a value, or by `Range`, may have.
///
/// These sizes come from a request's values and not from its shapes, so admission can't have seen
/// them. 64 Mi elements are 256 MiB of FP32.
pub(crate) const MADE_ELEMENTS_MAX: u64 = 1 << 26;

/// What tract keeps per node besides weights, measured as resident memory of models with few weights.
pub(crate) const NODE_OVERHEAD_BYTES: u64 = 4 << 10;

/// Predicted memory of a run whose plan was made from values, for the same reason.
pub(crate) const VALUE_PEAK_BYTES_MAX: u64 = 1 << 30;
