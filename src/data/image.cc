// The codecs behind image.h: libjpeg's long jumps and libpng's simplified interface end here.
#include "data/image.h"

#include <ATen/ATen.h>
#include <png.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <csetjmp>
#include <cstdio>  // jpeglib.h needs FILE
#include <cstring>
#include <string>

#include <jerror.h>
#include <jpeglib.h>

#include "base/error.h"
#include "base/files.h"

namespace skipway {
namespace {

constexpr int64_t kMaxPixels = int64_t{1} << 28;
// A PNG of one colour has some 8,000, a JPEG 500: memory is not taken on the word of a header.
constexpr int64_t kMaxPixelsOfByte = 1 << 16;
constexpr std::string_view kPngSignature = "\x89PNG\r\n\x1a\n";
constexpr std::string_view kJpegSignature = "\xff\xd8\xff";

[[noreturn]] void fail_decoding(std::string_view name, std::string_view got) {
  fail(ErrorKind::kData, "image", "expected a whole JPEG or PNG image, got {} at {}", got, name);
}

void check_pixels(int64_t height, int64_t width, size_t bytes, std::string_view name) {
  if (height < 1 || width < 1 || height > kMaxPixels / width) {
    fail_decoding(name, fmt::format("{} x {} pixels (at most 2^28)", width, height));
  }
  if (height * width / kMaxPixelsOfByte > static_cast<int64_t>(bytes)) {
    fail_decoding(name, fmt::format("{} x {} pixels in {} bytes", width, height, bytes));
  }
}

// ---- JPEG ----

struct JpegErrors {
  jpeg_error_mgr manager;  // first, so that a pointer to it is a pointer to all
  std::jmp_buf jump;
  char message[JMSG_LENGTH_MAX];
};

void leave_jpeg(j_common_ptr jpeg) {
  auto* errors = reinterpret_cast<JpegErrors*>(jpeg->err);
  errors->manager.format_message(jpeg, errors->message);
  std::longjmp(errors->jump, 1);
}

// -1: damaged data, which libjpeg would fill with grey, or a wrong number beside the image.
void leave_on_warning(j_common_ptr jpeg, int level) {
  const int code = jpeg->err->msg_code;
  const bool is_beside =
      code == JWRN_JFIF_MAJOR || code == JWRN_ADOBE_XFORM || code == JWRN_NOT_SEQUENTIAL;
  if (level < 0 && !is_beside) leave_jpeg(jpeg);
}

// Frees what libjpeg holds, in whichever way the decoder is left.
class JpegDecoder {
 public:
  JpegDecoder(std::string_view bytes, std::string_view name) : bytes_(bytes), name_(name) {
    jpeg_.err = jpeg_std_error(&errors_.manager);
    errors_.manager.error_exit = leave_jpeg;
    errors_.manager.emit_message = leave_on_warning;
  }
  ~JpegDecoder() { jpeg_destroy_decompress(&jpeg_); }
  JpegDecoder(const JpegDecoder&) = delete;
  JpegDecoder& operator=(const JpegDecoder&) = delete;

  ImageShape read_header() {
    if (!try_read_header()) fail_decoding(name_, errors_.message);
    check_pixels(jpeg_.image_height, jpeg_.image_width, bytes_.size(), name_);
    return {jpeg_.image_height, jpeg_.image_width};
  }

  Image read_image() {
    const ImageShape shape = read_header();
    const bool four = jpeg_.jpeg_color_space == JCS_CMYK || jpeg_.jpeg_color_space == JCS_YCCK;
    jpeg_.out_color_space = four ? JCS_CMYK : JCS_RGB;
    const size_t row_bytes = static_cast<size_t>(shape.width) * (four ? 4 : 3);
    Image image{shape.height, shape.width, {}};
    image.rgb.resize(static_cast<size_t>(shape.height) * row_bytes);
    if (!try_read_rows(image.rgb.data(), row_bytes)) fail_decoding(name_, errors_.message);
    if (four) cmyk_to_rgb(image.rgb);
    return image;
  }

 private:
  // No object with a destructor may live in the functions that libjpeg jumps back to.
  bool try_read_header() {
    if (setjmp(errors_.jump)) return false;
    jpeg_create_decompress(&jpeg_);
    jpeg_mem_src(&jpeg_, reinterpret_cast<const unsigned char*>(bytes_.data()),
                 static_cast<unsigned long>(bytes_.size()));
    jpeg_read_header(&jpeg_, TRUE);
    return true;
  }

  bool try_read_rows(uint8_t* pixels, size_t row_bytes) {
    if (setjmp(errors_.jump)) return false;
    jpeg_start_decompress(&jpeg_);
    while (jpeg_.output_scanline < jpeg_.output_height) {
      JSAMPROW row = pixels + jpeg_.output_scanline * row_bytes;
      jpeg_read_scanlines(&jpeg_, &row, 1);
    }
    jpeg_finish_decompress(&jpeg_);  // reads on to the end mark, so a missing one is noticed
    return true;
  }

  // In place. Adobe's programs store 255 - ink, and say so by their marker.
  void cmyk_to_rgb(std::vector<uint8_t>& pixels) const {
    const int flip = jpeg_.saw_Adobe_marker ? 0 : 255;
    const size_t count = pixels.size() / 4;
    for (size_t i = 0; i < count; ++i) {
      const int light = pixels[4 * i + 3] ^ flip;
      for (size_t c = 0; c < 3; ++c) {
        pixels[3 * i + c] = static_cast<uint8_t>(((pixels[4 * i + c] ^ flip) * light + 127) / 255);
      }
    }
    pixels.resize(3 * count);
  }

  std::string_view bytes_;
  std::string_view name_;
  jpeg_decompress_struct jpeg_{};
  JpegErrors errors_{};
};

// ---- PNG ----

class PngDecoder {
 public:
  PngDecoder(std::string_view bytes, std::string_view name) : bytes_(bytes.size()), name_(name) {
    // libpng stops at the last row; only the end chunk shows that the file is whole.
    if (!has_end_chunk(bytes)) fail_decoding(name, "a PNG cut short");
    png_.version = PNG_IMAGE_VERSION;
    if (!png_image_begin_read_from_memory(&png_, bytes.data(), bytes.size())) {
      fail_decoding(name, png_.message);
    }
  }
  ~PngDecoder() { png_image_free(&png_); }
  PngDecoder(const PngDecoder&) = delete;
  PngDecoder& operator=(const PngDecoder&) = delete;

  ImageShape shape() const {
    check_pixels(png_.height, png_.width, bytes_, name_);
    return {png_.height, png_.width};
  }

  Image read_image() {
    Image image{shape().height, shape().width, {}};
    const bool has_alpha = png_.format & PNG_FORMAT_FLAG_ALPHA;
    png_.format = has_alpha ? PNG_FORMAT_RGBA : PNG_FORMAT_RGB;
    png_.flags |= PNG_IMAGE_FLAG_16BIT_sRGB;  // else 16 bits without a note would count as linear
    image.rgb.resize(PNG_IMAGE_SIZE(png_));
    if (!png_image_finish_read(&png_, nullptr, image.rgb.data(), 0, nullptr) ||
        PNG_IMAGE_FAILED(png_)) {
      fail_decoding(name_, png_.message);
    }
    if (has_alpha) lay_over_black(image.rgb);
    return image;
  }

 private:
  static bool has_end_chunk(std::string_view bytes) {
    const auto byte = [&](size_t i) { return static_cast<uint8_t>(bytes[i]); };
    size_t at = kPngSignature.size();
    while (at + 12 <= bytes.size()) {  // length, type, data, checksum
      const size_t length = size_t{byte(at)} << 24 | size_t{byte(at + 1)} << 16 |
                            size_t{byte(at + 2)} << 8 | byte(at + 3);
      if (length > bytes.size() - at - 12) return false;
      if (bytes.substr(at + 4, 4) == "IEND") return true;
      at += 12 + length;
    }
    return false;
  }

  static void lay_over_black(std::vector<uint8_t>& pixels) {
    const size_t count = pixels.size() / 4;
    for (size_t i = 0; i < count; ++i) {
      const int alpha = pixels[4 * i + 3];
      for (size_t c = 0; c < 3; ++c) {
        pixels[3 * i + c] = static_cast<uint8_t>((pixels[4 * i + c] * alpha + 127) / 255);
      }
    }
    pixels.resize(3 * count);
  }

  size_t bytes_;
  std::string_view name_;
  png_image png_{};
};

// [1,h,w,3] over the image's own memory.
at::Tensor as_tensor(Image& image) {
  return at::from_blob(image.rgb.data(), {1, image.height, image.width, 3}, at::kByte);
}

}  // namespace

void require_image_bytes(uintmax_t bytes, std::string_view name) {
  constexpr uintmax_t kMost = uintmax_t{5} << 28;
  if (bytes > kMost)
    fail(ErrorKind::kData, "image", "expected an image of at most {} bytes, got {} in {}", kMost,
         bytes, name);
}

ImageShape image_shape(std::string_view bytes, std::string_view name) {
  if (bytes.starts_with(kPngSignature)) return PngDecoder(bytes, name).shape();
  if (bytes.starts_with(kJpegSignature)) return JpegDecoder(bytes, name).read_header();
  fail_decoding(name, bytes.empty() ? "an empty file" : "a file of another kind");
}

Image decode_image(std::string_view bytes, std::string_view name) {
  if (bytes.starts_with(kPngSignature)) return PngDecoder(bytes, name).read_image();
  if (bytes.starts_with(kJpegSignature)) return JpegDecoder(bytes, name).read_image();
  fail_decoding(name, bytes.empty() ? "an empty file" : "a file of another kind");
}

at::Tensor fit_images(const at::Tensor& images, int64_t size) {
  constexpr int64_t kMaxAspect = 16;  // a strip of 1 x 2^28 pixels must not grow 'size' times
  at::Tensor planes = images.permute({0, 3, 1, 2});  // a view: channels last in memory
  for (int64_t side : {2, 3}) {
    const int64_t longest = kMaxAspect * std::min(planes.size(2), planes.size(3));
    const int64_t excess = planes.size(side) - longest;
    if (excess > 0) planes = planes.narrow(side, excess / 2, longest);
  }
  const int64_t height = planes.size(2);
  const int64_t width = planes.size(3);
  const std::array<int64_t, 2> resized_size = {height <= width ? size : size * height / width,
                                               width <= height ? size : size * width / height};
  const at::Tensor resized = at::_upsample_bilinear2d_aa(
      planes.contiguous(at::MemoryFormat::ChannelsLast), resized_size, /*align_corners=*/false);
  // torchvision's CenterCrop rounds half to even, as Python does.
  const auto begin = [&](int64_t length) {
    return static_cast<int64_t>(std::nearbyint(static_cast<double>(length - size) / 2));
  };
  return resized.narrow(2, begin(resized_size[0]), size)
      .narrow(3, begin(resized_size[1]), size)
      .permute({0, 2, 3, 1});
}

Image fit_image(Image image, int64_t size) {
  if (image.height == size && image.width == size) return image;
  Image fitted{size, size, std::vector<uint8_t>(static_cast<size_t>(size * size * 3))};
  as_tensor(fitted).copy_(fit_images(as_tensor(image), size));
  return fitted;
}

void write_png(const std::filesystem::path& path, const Image& image) {
  png_image png{};
  png.version = PNG_IMAGE_VERSION;
  png.width = static_cast<png_uint_32>(image.width);
  png.height = static_cast<png_uint_32>(image.height);
  png.format = PNG_FORMAT_RGB;
  png_alloc_size_t bytes = PNG_IMAGE_PNG_SIZE_MAX(png);
  std::string file(bytes, '\0');
  if (!png_image_write_to_memory(&png, file.data(), &bytes, 0, image.rgb.data(), 0, nullptr)) {
    fail(ErrorKind::kInternal, "image", "could not encode {} x {} pixels as PNG: {}", image.width,
         image.height, png.message);
  }
  write_file_atomic(path, std::string_view(file).substr(0, bytes));
}

}  // namespace skipway
