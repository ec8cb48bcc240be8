// One image: decoded from JPEG or PNG, fitted to a size, written as PNG. Not a data set; see
// dataset.h.
#pragma once
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <string_view>
#include <vector>

namespace skipway {

/// Red, green, blue; 8 bits a channel; row by row from the top left.
struct Image {
  int64_t height = 0;
  int64_t width = 0;
  std::vector<uint8_t> rgb;  // height * width * 3
};

/// Above what any image of 2^28 pixels needs. Errors: kData naming it, for a file of more `bytes`:
/// a video, or a disk's image, is not read into memory to see that it is none.
void require_image_bytes(uintmax_t bytes, std::string_view name);

struct ImageShape {
  int64_t height = 0;
  int64_t width = 0;
};

/// What the header says, without decoding. Errors: kData as decode_image, as far as the header
/// shows them.
ImageShape image_shape(std::string_view bytes, std::string_view name);

/// Decodes JPEG (libjpeg-turbo) or PNG (libpng), told apart by their first bytes. Grey becomes
/// three equal channels, CMYK (Adobe's inverted form too) becomes RGB, alpha is laid over black, 16
/// bits become 8. A camera's note on orientation is not followed. Errors: kData naming `name`, when
/// the bytes are neither, are damaged (all that libjpeg only warns of, too) or cut short, or exceed
/// 2^28 pixels.
Image decode_image(std::string_view bytes, std::string_view name);

/// Resizes so that the shorter side is `size` (antialiased bilinear, as torchvision's Resize), then
/// crops the centre: size x size. An image of that size already is returned as it is. Of one more
/// than 16 times as long as wide, the ends that the crop drops are cut off before.
Image fit_image(Image image, int64_t size);

/// The same for images of one shape: uint8 [n, h, w, 3] -> [n, size, size, 3], in any stride.
at::Tensor fit_images(const at::Tensor& images, int64_t size);

/// Errors: kDisk. Written atomically.
void write_png(const std::filesystem::path& path, const Image& image);

}  // namespace skipway
