// What tests of the readers share: small images and archives written through
// the libraries themselves.
#pragma once
#include <archive.h>
#include <archive_entry.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <jpeglib.h>
#include <png.h>

#include <cstdint>
#include <cstdlib>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/files.h"
#include "base/for_test.h"
#include "data/image.h"

namespace skipway {

/// "" when nothing is thrown or the kind is another.
inline std::string message_of(ErrorKind kind, const std::function<void()>& action) {
  try {
    action();
  } catch (const Error& error) {
    if (error.kind() == kind) return error.what();
    ADD_FAILURE() << "error of kind " << error.exit_code() << ": " << error.what();
  }
  return "";
}

/// A picture without symmetry: every pixel and channel tells where it is.
inline Image sample_image(int64_t height, int64_t width, int start = 0) {
  Image image{height, width, {}};
  for (int64_t y = 0; y < height; ++y) {
    for (int64_t x = 0; x < width; ++x) {
      image.rgb.push_back(static_cast<uint8_t>(start + 8 * x));
      image.rgb.push_back(static_cast<uint8_t>(start + 8 * y));
      image.rgb.push_back(static_cast<uint8_t>(start + 4 * x + 4 * y));
    }
  }
  return image;
}

struct JpegForm {
  J_COLOR_SPACE pixels = JCS_RGB;  // of the bytes given
  J_COLOR_SPACE stored = JCS_YCbCr;
  int channels = 3;
  bool adobe_marker = false;
};

inline std::string jpeg_bytes(int64_t height, int64_t width, std::vector<uint8_t> pixels,
                              const JpegForm& form = {}) {
  jpeg_compress_struct jpeg;
  jpeg_error_mgr errors;
  jpeg.err = jpeg_std_error(&errors);
  jpeg_create_compress(&jpeg);
  unsigned char* data = nullptr;
  unsigned long size = 0;
  jpeg_mem_dest(&jpeg, &data, &size);
  jpeg.image_height = static_cast<JDIMENSION>(height);
  jpeg.image_width = static_cast<JDIMENSION>(width);
  jpeg.input_components = form.channels;
  jpeg.in_color_space = form.pixels;
  jpeg_set_defaults(&jpeg);
  jpeg_set_colorspace(&jpeg, form.stored);
  jpeg.write_Adobe_marker = form.adobe_marker ? TRUE : FALSE;
  jpeg_set_quality(&jpeg, 100, TRUE);
  jpeg_start_compress(&jpeg, TRUE);
  while (jpeg.next_scanline < jpeg.image_height) {
    JSAMPROW row = pixels.data() + static_cast<int64_t>(jpeg.next_scanline) * width * form.channels;
    jpeg_write_scanlines(&jpeg, &row, 1);
  }
  jpeg_finish_compress(&jpeg);
  jpeg_destroy_compress(&jpeg);
  std::string bytes(reinterpret_cast<char*>(data), size);
  std::free(data);
  return bytes;
}

inline std::string jpeg_bytes(const Image& image) {
  return jpeg_bytes(image.height, image.width, image.rgb);
}

/// `format` as in png.h: PNG_FORMAT_RGB, PNG_FORMAT_GA, …
inline std::string png_bytes(int64_t height, int64_t width, const std::vector<uint8_t>& pixels,
                             png_uint_32 format = PNG_FORMAT_RGB) {
  png_image png{};
  png.version = PNG_IMAGE_VERSION;
  png.height = static_cast<png_uint_32>(height);
  png.width = static_cast<png_uint_32>(width);
  png.format = format;
  png_alloc_size_t size = PNG_IMAGE_PNG_SIZE_MAX(png);
  std::string bytes(size, '\0');
  png_image_write_to_memory(&png, bytes.data(), &size, 0, pixels.data(), 0, nullptr);
  bytes.resize(size);
  return bytes;
}

inline std::string png_bytes(const Image& image) {
  return png_bytes(image.height, image.width, image.rgb);
}

struct TarEntry {
  std::string path;
  std::string bytes;
  std::string hard_link_to;  // then without bytes
};

/// A path that ends with "/" becomes a folder.
inline void write_tar(const fs::path& path, const std::vector<TarEntry>& entries,
                      bool gzip = true) {
  archive* tar = archive_write_new();
  archive_write_set_format_pax_restricted(tar);
  if (gzip) archive_write_add_filter_gzip(tar);
  archive_write_open_filename(tar, path.c_str());
  for (const TarEntry& file : entries) {
    archive_entry* entry = archive_entry_new();
    archive_entry_set_pathname(entry, file.path.c_str());
    archive_entry_set_filetype(entry, file.path.ends_with('/') ? AE_IFDIR : AE_IFREG);
    archive_entry_set_perm(entry, 0644);
    archive_entry_set_size(entry, static_cast<la_int64_t>(file.bytes.size()));
    if (!file.hard_link_to.empty()) archive_entry_set_hardlink(entry, file.hard_link_to.c_str());
    archive_write_header(tar, entry);
    archive_write_data(tar, file.bytes.data(), file.bytes.size());
    archive_entry_free(entry);
  }
  archive_write_free(tar);
}

}  // namespace skipway
