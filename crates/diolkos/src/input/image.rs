// SPDX-License-Identifier: Apache-2.0
//! Pictures as tensors: decode, resize to what the model takes, lay out, scale.
//!
//! The defaults, which docs/cli.md promises: the whole picture is stretched to the model's size with a
//! bilinear filter; transparency is ignored; one channel means luma (BT.601); bytes become 0..1 for floating
//! point, 0..255 for UINT8 and -128..127 for INT8; then `(value - mean) / std` where these are given.

use std::io::Cursor;
use std::str::FromStr;

use clap::ValueEnum;
use diolkos_types::{DataType, Shape};
use fast_image_resize::images::Image;
use fast_image_resize::{FilterType, PixelType, ResizeAlg, ResizeOptions, Resizer};
use half::f16;
use zune_core::colorspace::ColorSpace;
use zune_core::options::DecoderOptions;
use zune_core::result::DecodingResult;

use super::{InputError, Wanted};
use crate::tensor::Value;

/// Longest side of a picture. A decoded picture of that size has 768 MB, which is as far as a command that
/// prepares one input should go.
const SIDE_MAX: usize = 16_384;

/// How a picture of one shape becomes one of another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Fit {
    /// All of it, distorted if need be.
    #[default]
    Stretch,
    /// The largest centred part of the right proportions.
    Crop,
}

/// Where the channels are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Layout {
    /// Channels before rows and columns.
    Nchw,
    /// Channels last.
    Nhwc,
}

/// What the bytes 0 and 255 become.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scale {
    low: f64,
    high: f64,
}

impl FromStr for Scale {
    type Err = String;

    fn from_str(text: &str) -> Result<Scale, String> {
        let bad = || format!("`{text}` is no range; write LOW..HIGH, such as 0..1, -1..1 or 0..255");
        let (low, high) = text.split_once("..").ok_or_else(bad)?;
        let (low, high): (f64, f64) = (low.parse().map_err(|_| bad())?, high.parse().map_err(|_| bad())?);
        if !low.is_finite() || !high.is_finite() || low >= high {
            return Err(bad());
        }
        Ok(Scale { low, high })
    }
}

/// How pictures become tensors.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "Pictures")]
pub struct ImageOptions {
    /// What the bytes 0 and 255 become [default: 0..1; 0..255 for UINT8, -128..127 for INT8]
    #[arg(long, value_name = "LOW..HIGH", allow_hyphen_values = true)]
    pub scale: Option<Scale>,
    /// Subtracted after scaling, one number or one per channel, such as 0.485,0.456,0.406
    #[arg(long, value_name = "M,…", value_delimiter = ',', allow_hyphen_values = true)]
    pub mean: Vec<f64>,
    /// Divided by after that, one number or one per channel, such as 0.229,0.224,0.225
    #[arg(long, value_name = "S,…", value_delimiter = ',')]
    pub std: Vec<f64>,
    /// How a picture of other proportions is made to fit
    #[arg(long, value_enum, default_value_t)]
    pub fit: Fit,
    /// Where the model has its channels [default: told from its shape]
    #[arg(long, value_enum)]
    pub layout: Option<Layout>,
}

fn bad(text: impl Into<String>) -> InputError {
    InputError::Image(text.into())
}

/// The picture that a model takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Target {
    layout: Layout,
    channels: usize,
    /// `None` = the picture's own.
    height: Option<usize>,
    width: Option<usize>,
}

/// Reads a picture.
pub(super) fn read(contents: &[u8], wanted: &Wanted, options: &ImageOptions) -> Result<Value, InputError> {
    let target = target(&wanted.dims, options.layout)?;
    let picture = decode(contents)?.with_channels(target.channels);
    let picture = picture.resized(
        target.width.unwrap_or(picture.width),
        target.height.unwrap_or(picture.height),
        options.fit,
    )?;
    let convert = Convert::new(wanted.data_type, target.channels, options)?;
    let data = lay_out(&picture, target.layout, &convert);
    let shape = shape(&wanted.dims, &target, &picture);
    Ok(Value { name: wanted.name.clone(), data_type: wanted.data_type, shape, data: data.into() })
}

fn target(dims: &[i64], layout: Option<Layout>) -> Result<Target, InputError> {
    let length = |dim: i64| usize::try_from(dim).ok();
    let refuse = || {
        bad(format!(
            "the model takes {dims:?}, which is no picture: those are [N,C,H,W], [N,H,W,C], [C,H,W], [H,W,C] or \
             [H,W] with 1 or 3 channels and N = 1"
        ))
    };
    let inner = match dims {
        [-1 | 1, inner @ ..] if inner.len() == 3 => inner,
        _ => dims,
    };
    match (inner, layout) {
        (&[channels @ (1 | 3), height, width], None | Some(Layout::Nchw)) => Ok(Target {
            layout: Layout::Nchw,
            channels: channels as usize,
            height: length(height),
            width: length(width),
        }),
        (&[height, width, channels @ (1 | 3)], None | Some(Layout::Nhwc)) => Ok(Target {
            layout: Layout::Nhwc,
            channels: channels as usize,
            height: length(height),
            width: length(width),
        }),
        (&[height, width], None) => {
            Ok(Target { layout: Layout::Nchw, channels: 1, height: length(height), width: length(width) })
        }
        _ => Err(refuse()),
    }
}

fn shape(dims: &[i64], target: &Target, picture: &Picture) -> Shape {
    let (channels, height, width) = (target.channels as u64, picture.height as u64, picture.width as u64);
    let picture = match (dims.len(), target.layout) {
        (2, _) => vec![height, width],
        (_, Layout::Nchw) => vec![channels, height, width],
        (_, Layout::Nhwc) => vec![height, width, channels],
    };
    let batch = if dims.len() == 4 { vec![1] } else { vec![] };
    Shape::new(&[batch, picture].concat()).expect("a picture has at most four dimensions")
}

/// Decoded bytes, channels together.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Picture {
    width: usize,
    height: usize,
    /// 1 or 3.
    channels: usize,
    bytes: Vec<u8>,
}

fn decode(contents: &[u8]) -> Result<Picture, InputError> {
    if contents.starts_with(b"\x89PNG") { decode_png(contents) } else { decode_jpeg(contents) }
}

fn options() -> DecoderOptions {
    DecoderOptions::new_safe().set_max_width(SIDE_MAX).set_max_height(SIDE_MAX)
}

fn decode_png(contents: &[u8]) -> Result<Picture, InputError> {
    let told = |error: &dyn std::fmt::Display| bad(format!("its PNG data: {error}"));
    let mut decoder =
        zune_png::PngDecoder::new_with_options(Cursor::new(contents), options().png_set_strip_to_8bit(true));
    let decoded = decoder.decode().map_err(|error| told(&error))?;
    let DecodingResult::U8(bytes) = decoded else {
        return Err(told(&"it has more than 8 bits per channel"));
    };
    let size = decoder.dimensions().ok_or_else(|| told(&"it has no size"))?;
    let space = decoder.colorspace().ok_or_else(|| told(&"it has no colours"))?;
    Picture::new(size, space, &bytes)
}

fn decode_jpeg(contents: &[u8]) -> Result<Picture, InputError> {
    let told = |error: &dyn std::fmt::Display| bad(format!("its JPEG data: {error}"));
    let mut decoder = zune_jpeg::JpegDecoder::new_with_options(Cursor::new(contents), options());
    decoder.decode_headers().map_err(|error| told(&error))?;
    if decoder.input_colorspace() == Some(ColorSpace::Luma) {
        decoder.set_options(options().jpeg_set_out_colorspace(ColorSpace::Luma));
    }
    let bytes = decoder.decode().map_err(|error| told(&error))?;
    let size = decoder.info().map(|info| (usize::from(info.width), usize::from(info.height)));
    let space = decoder.output_colorspace().ok_or_else(|| told(&"it has no colours"))?;
    Picture::new(size.ok_or_else(|| told(&"it has no size"))?, space, &bytes)
}

impl Picture {
    fn new((width, height): (usize, usize), space: ColorSpace, bytes: &[u8]) -> Result<Picture, InputError> {
        let (stored, channels) = match space {
            ColorSpace::Luma => (1, 1),
            ColorSpace::LumaA => (2, 1),
            ColorSpace::RGB => (3, 3),
            ColorSpace::RGBA => (4, 3),
            other => return Err(bad(format!("its colours are {other:?}; save it as RGB or grey"))),
        };
        if width == 0 || height == 0 || bytes.len() != width * height * stored {
            return Err(bad(format!("it claims {width}×{height} pixels and has {} bytes", bytes.len())));
        }
        let bytes = if stored == channels {
            bytes.to_vec()
        } else {
            bytes.chunks_exact(stored).flat_map(|pixel| &pixel[..channels]).copied().collect()
        };
        Ok(Picture { width, height, channels, bytes })
    }

    fn with_channels(self, channels: usize) -> Picture {
        let bytes = match (self.channels, channels) {
            (3, 1) => self.bytes.chunks_exact(3).map(|pixel| luma(pixel[0], pixel[1], pixel[2])).collect(),
            (1, 3) => self.bytes.iter().flat_map(|&grey| [grey; 3]).collect(),
            _ => self.bytes,
        };
        Picture { channels, bytes, ..self }
    }

    fn resized(&self, width: usize, height: usize, fit: Fit) -> Result<Picture, InputError> {
        if (width, height) == (self.width, self.height) {
            return Ok(self.clone());
        }
        if !(1..=SIDE_MAX).contains(&width) || !(1..=SIDE_MAX).contains(&height) {
            return Err(bad(format!(
                "the model takes {width}×{height} pixels; at most {SIDE_MAX} per side work"
            )));
        }
        let told = |error: &dyn std::fmt::Display| bad(format!("resizing: {error}"));
        let side = |length: usize| u32::try_from(length).expect("sides are at most SIDE_MAX");
        let pixel = if self.channels == 3 { PixelType::U8x3 } else { PixelType::U8 };
        let from = Image::from_vec_u8(side(self.width), side(self.height), self.bytes.clone(), pixel)
            .map_err(|error| told(&error))?;
        let mut to = Image::new(side(width), side(height), pixel);
        let resize =
            ResizeOptions::new().resize_alg(ResizeAlg::Convolution(FilterType::Bilinear)).use_alpha(false);
        let resize = match fit {
            Fit::Stretch => resize,
            Fit::Crop => resize.fit_into_destination(Some((0.5, 0.5))),
        };
        Resizer::new().resize(&from, &mut to, &resize).map_err(|error| told(&error))?;
        Ok(Picture { width, height, channels: self.channels, bytes: to.into_vec() })
    }
}

/// BT.601 in 16-bit fixed point, as Pillow has it.
fn luma(red: u8, green: u8, blue: u8) -> u8 {
    let sum = u32::from(red) * 19_595 + u32::from(green) * 38_470 + u32::from(blue) * 7_471 + 0x8000;
    u8::try_from(sum >> 16).expect("the weights add up to 65536")
}

/// From a byte of a channel to an element, as tables of its bytes.
struct Convert {
    tables: Vec<Vec<Vec<u8>>>,
}

impl Convert {
    fn new(data_type: DataType, channels: usize, options: &ImageOptions) -> Result<Convert, InputError> {
        let default = match data_type {
            DataType::Fp16 | DataType::Fp32 | DataType::Fp64 => Scale { low: 0.0, high: 1.0 },
            DataType::Uint8 => Scale { low: 0.0, high: 255.0 },
            DataType::Int8 => Scale { low: -128.0, high: 127.0 },
            other => {
                return Err(bad(format!(
                    "the model takes {other}; pictures become FP32, FP16, FP64, UINT8 or INT8"
                )));
            }
        };
        let Scale { low, high } = options.scale.unwrap_or(default);
        let per_channel = |values: &[f64], otherwise: f64, name: &str| match values {
            [] => Ok(vec![otherwise; channels]),
            [one] => Ok(vec![*one; channels]),
            several if several.len() == channels => Ok(several.to_vec()),
            several => {
                Err(bad(format!("--{name} has {} numbers and the model {channels} channels", several.len())))
            }
        };
        let mean = per_channel(&options.mean, 0.0, "mean")?;
        let std = per_channel(&options.std, 1.0, "std")?;
        if std.contains(&0.0) {
            return Err(bad("--std has a 0, and dividing by it gives nothing"));
        }
        let element = |byte: u8, channel: usize| {
            let scaled = low + f64::from(byte) / 255.0 * (high - low);
            to_bytes((scaled - mean[channel]) / std[channel], data_type)
        };
        let table = |channel| (0..=255).map(|byte| element(byte, channel)).collect();
        Ok(Convert { tables: (0..channels).map(table).collect() })
    }
}

fn to_bytes(value: f64, data_type: DataType) -> Vec<u8> {
    match data_type {
        DataType::Fp16 => f16::from_f64(value).to_le_bytes().to_vec(),
        DataType::Fp32 => (value as f32).to_le_bytes().to_vec(),
        DataType::Fp64 => value.to_le_bytes().to_vec(),
        // `as` rounds towards zero and saturates, which is what is wanted after rounding.
        DataType::Int8 => (value.round() as i8).to_le_bytes().to_vec(),
        _ => vec![value.round() as u8],
    }
}

fn lay_out(picture: &Picture, layout: Layout, convert: &Convert) -> Vec<u8> {
    let channels = picture.channels;
    let element = |channel: usize, byte: &u8| convert.tables[channel][usize::from(*byte)].as_slice();
    let mut data = Vec::with_capacity(picture.bytes.len() * convert.tables[0][0].len());
    match layout {
        Layout::Nhwc => {
            for pixel in picture.bytes.chunks_exact(channels) {
                pixel
                    .iter()
                    .enumerate()
                    .for_each(|(channel, byte)| data.extend_from_slice(element(channel, byte)));
            }
        }
        Layout::Nchw => {
            for channel in 0..channels {
                let plane = picture.bytes.iter().skip(channel).step_by(channels);
                plane.for_each(|byte| data.extend_from_slice(element(channel, byte)));
            }
        }
    }
    data
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DIGIT: &[u8] = include_bytes!("../../../../examples/digits/images/00_0.png");

    fn wanted(data_type: DataType, dims: &[i64]) -> Wanted {
        Wanted { name: "image".into(), data_type, dims: dims.into() }
    }

    #[test]
    fn tells_the_layout_from_the_shape() {
        let told = |dims: &[i64]| target(dims, None).map(|t| (t.layout, t.channels, t.height, t.width)).ok();
        let size = (Some(4), Some(5));
        assert_eq!(told(&[-1, 3, 4, 5]), Some((Layout::Nchw, 3, size.0, size.1)));
        assert_eq!(told(&[1, 4, 5, 3]), Some((Layout::Nhwc, 3, size.0, size.1)));
        assert_eq!(told(&[1, 4, 5]), Some((Layout::Nchw, 1, size.0, size.1)));
        assert_eq!(told(&[4, 5]), Some((Layout::Nchw, 1, size.0, size.1)));
        assert_eq!(told(&[-1, 3, -1, -1]), Some((Layout::Nchw, 3, None, None)));
        for none in [&[2, 3, 4, 5][..], &[1, 2, 4, 5], &[10], &[], &[1, 1, 3, 4, 5]] {
            assert_eq!(told(none), None, "{none:?}");
        }
        assert_eq!(target(&[1, 3, 4, 3], Some(Layout::Nhwc)).unwrap().height, Some(3));
    }

    #[test]
    fn a_digit_at_its_own_size_keeps_every_byte() {
        let value = read(DIGIT, &wanted(DataType::Uint8, &[-1, 1, 8, 8]), &ImageOptions::default()).unwrap();
        assert_eq!(value.shape.dims(), [1, 1, 8, 8]);
        let picture = decode(DIGIT).unwrap();
        assert_eq!(value.data[..], picture.bytes);
        let floats = read(DIGIT, &wanted(DataType::Fp32, &[-1, 1, 8, 8]), &ImageOptions::default()).unwrap();
        let expected: Vec<f64> =
            picture.bytes.iter().map(|&b| f64::from((f64::from(b) / 255.0) as f32)).collect();
        assert_eq!(floats.numbers().unwrap(), expected);
        let signed = read(DIGIT, &wanted(DataType::Int8, &[8, 8]), &ImageOptions::default()).unwrap();
        assert_eq!(signed.data[0].cast_signed(), (i16::from(picture.bytes[0]) - 128) as i8);
    }

    #[test]
    fn layouts_scale_mean_and_std() {
        let picture = Picture { width: 2, height: 1, channels: 3, bytes: vec![0, 51, 255, 255, 0, 0] };
        let options = ImageOptions {
            scale: Some("-1..1".parse().unwrap()),
            mean: vec![0.0, 0.4, 1.0],
            std: vec![2.0],
            ..ImageOptions::default()
        };
        let convert = Convert::new(DataType::Fp64, 3, &options).unwrap();
        let numbers = |layout| {
            let data = lay_out(&picture, layout, &convert);
            data.chunks_exact(8).map(|b| f64::from_le_bytes(b.try_into().unwrap())).collect::<Vec<_>>()
        };
        let near = |got: Vec<f64>, want: [f64; 6]| got.iter().zip(want).all(|(a, b)| (a - b).abs() < 1e-12);
        assert!(near(numbers(Layout::Nhwc), [-0.5, -0.5, 0.0, 0.5, -0.7, -1.0]));
        assert!(near(numbers(Layout::Nchw), [-0.5, 0.5, -0.5, -0.7, 0.0, -1.0]));
        let two = ImageOptions { mean: vec![1.0, 2.0], ..ImageOptions::default() };
        assert!(Convert::new(DataType::Fp32, 3, &two).is_err());
        assert!(Convert::new(DataType::Bytes, 3, &ImageOptions::default()).is_err());
    }

    #[test]
    fn colours_and_sizes() {
        let picture = Picture::new((1, 1), ColorSpace::RGBA, &[255, 255, 255, 7]).unwrap();
        assert_eq!(picture.clone().with_channels(1).bytes, [255]);
        assert_eq!(
            Picture::new((1, 1), ColorSpace::LumaA, &[9, 0]).unwrap().with_channels(3).bytes,
            [9, 9, 9]
        );
        assert!(Picture::new((1, 1), ColorSpace::CMYK, &[0; 4]).is_err());
        assert!(Picture::new((2, 1), ColorSpace::RGB, &[0; 5]).is_err());
        let wide = Picture { width: 4, height: 2, channels: 1, bytes: vec![0, 100, 100, 0, 0, 100, 100, 0] };
        assert_eq!(wide.resized(2, 2, Fit::Crop).unwrap().bytes, [100; 4]);
        assert_eq!(wide.resized(1, 1, Fit::Stretch).unwrap().bytes.len(), 1);
        assert!(wide.resized(0, 1, Fit::Stretch).is_err());
    }

    #[test]
    fn ranges() {
        assert_eq!("0..255".parse(), Ok(Scale { low: 0.0, high: 255.0 }));
        for bad in ["1", "1..0", "0..", "a..b", "0..inf"] {
            assert!(bad.parse::<Scale>().is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn damaged_pictures_never_panic(at in 0..DIGIT.len(), byte: u8, length in 0..=DIGIT.len()) {
            let mut damaged = DIGIT.to_vec();
            damaged[at] = byte;
            damaged.truncate(length);
            let _ = decode(&damaged);
            let _ = decode_jpeg(&damaged);
        }
    }
}
