#include <fovea/parts/kv/quantized.hpp>

#include "decode.hpp"

namespace {

const bool added = bench::cached::add<fovea::kv::Int8>("int8", {"paged_32", "paged_32_strewn"});

}  // namespace
