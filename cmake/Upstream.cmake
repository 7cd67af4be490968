# The vendored whisper.cpp: unpacked when missing, ggml built as static libraries with the options that were chosen, and
# `_build.json`, which says what the result needs of a CPU (read before _ggml is loaded, so that a CPU that lacks it gets
# an error instead of an illegal instruction).

if(WHISPERQ_WHISPER_CPP_DIR)
    set(WHISPERQ_UPSTREAM_DIR ${WHISPERQ_WHISPER_CPP_DIR})
else()
    set(WHISPERQ_UPSTREAM_DIR ${CMAKE_CURRENT_SOURCE_DIR}/third_party/whisper.cpp/upstream)
    execute_process(
        COMMAND ${Python_EXECUTABLE} ${CMAKE_CURRENT_SOURCE_DIR}/third_party/whisper.cpp/vendor.py
        RESULT_VARIABLE _vendor_result)
    if(NOT _vendor_result EQUAL 0)
        message(FATAL_ERROR "whisper.cpp could not be unpacked (see above).")
    endif()
endif()
if(NOT EXISTS ${WHISPERQ_UPSTREAM_DIR}/src/whisper.cpp)
    message(FATAL_ERROR "No whisper.cpp in ${WHISPERQ_UPSTREAM_DIR}: src/whisper.cpp is missing.")
endif()

set(BUILD_SHARED_LIBS OFF)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
set(GGML_CCACHE OFF CACHE BOOL "" FORCE)
set(GGML_OPENMP OFF CACHE BOOL "" FORCE)
set(GGML_ALL_WARNINGS OFF CACHE BOOL "" FORCE)
set(GGML_BUILD_TESTS OFF CACHE BOOL "" FORCE)
set(GGML_BUILD_EXAMPLES OFF CACHE BOOL "" FORCE)
set(GGML_NATIVE ${WHISPERQ_NATIVE} CACHE BOOL "" FORCE)
set(GGML_METAL ${WHISPERQ_METAL} CACHE BOOL "" FORCE)
set(GGML_METAL_EMBED_LIBRARY ${WHISPERQ_METAL} CACHE BOOL "" FORCE)
set(GGML_CUDA ${WHISPERQ_CUDA} CACHE BOOL "" FORCE)
# Without the driver's memory pools _ggml needs no libcuda to be loaded, so one build runs with and without a GPU.
set(GGML_CUDA_NO_VMM ON CACHE BOOL "" FORCE)
set(GGML_CUDA_NCCL OFF CACHE BOOL "" FORCE)
set(GGML_VULKAN ${WHISPERQ_VULKAN} CACHE BOOL "" FORCE)
set(GGML_BLAS ${WHISPERQ_BLAS} CACHE BOOL "" FORCE)
if(NOT WHISPERQ_NATIVE)
    foreach(_feature SSE42 AVX AVX2 BMI2 FMA F16C)
        set(GGML_${_feature} ON CACHE BOOL "" FORCE)
    endforeach()
endif()

# ggml sets some variables for itself only when they are unset, and installs headers that are not for our wheel.
add_subdirectory(${WHISPERQ_UPSTREAM_DIR}/ggml ${CMAKE_CURRENT_BINARY_DIR}/ggml EXCLUDE_FROM_ALL)

add_library(whisperq_upstream INTERFACE)
target_include_directories(whisperq_upstream SYSTEM INTERFACE
    ${WHISPERQ_UPSTREAM_DIR}/include ${WHISPERQ_UPSTREAM_DIR}/src)
target_link_libraries(whisperq_upstream INTERFACE ggml Threads::Threads)

# The instruction sets that ggml-cpu is compiled for. _ggml is loaded on a CPU that has them only, so ggml's quantisers
# (in ggml-base, which upstream compiles for any CPU) may use them too. Without contraction to FMA, which rounds once
# where the quantize tool rounds twice, their bytes stay the tool's.
get_target_property(_flags ggml-cpu COMPILE_OPTIONS)
string(REGEX MATCHALL "-m[a-z0-9.+=-]+" WHISPERQ_GGML_ISA_FLAGS "${_flags}")
target_compile_options(ggml-base PRIVATE ${WHISPERQ_GGML_ISA_FLAGS} -ffp-contract=off)

# The macros that the compiler defines under these flags are what the code may contain.
function(whisperq_predefined_macros out)
    execute_process(
        COMMAND ${CMAKE_C_COMPILER} ${WHISPERQ_GGML_ISA_FLAGS} -dM -E -x c /dev/null
        OUTPUT_VARIABLE _macros RESULT_VARIABLE _result ERROR_QUIET)
    if(NOT _result EQUAL 0)
        message(WARNING "The compiler does not list its macros: _ggml will be loaded without an ISA check.")
    endif()
    set(${out} "${_macros}" PARENT_SCOPE)
endfunction()

# Our feature names (csrc/core/cpu_features.cpp) and the macro that says that the compiler may use them.
set(_feature_macros
    sse3:__SSE3__ ssse3:__SSSE3__ sse4_1:__SSE4_1__ sse4_2:__SSE4_2__ popcnt:__POPCNT__ avx:__AVX__ f16c:__F16C__
    fma:__FMA__ avx2:__AVX2__ bmi1:__BMI__ bmi2:__BMI2__ lzcnt:__LZCNT__ movbe:__MOVBE__ avx512f:__AVX512F__
    avx512bw:__AVX512BW__ avx512cd:__AVX512CD__ avx512dq:__AVX512DQ__ avx512vl:__AVX512VL__ avx512vbmi:__AVX512VBMI__
    avx512vnni:__AVX512VNNI__ avx512bf16:__AVX512BF16__ avxvnni:__AVXVNNI__ amx_tile:__AMX_TILE__
    amx_int8:__AMX_INT8__ neon:__ARM_NEON fp16:__ARM_FEATURE_FP16_VECTOR_ARITHMETIC dotprod:__ARM_FEATURE_DOTPROD
    i8mm:__ARM_FEATURE_MATMUL_INT8 bf16:__ARM_FEATURE_BF16 sve:__ARM_FEATURE_SVE sve2:__ARM_FEATURE_SVE2
    sme:__ARM_FEATURE_SME)

whisperq_predefined_macros(_macros)
set(_required "")
foreach(_pair ${_feature_macros})
    string(REPLACE ":" ";" _pair ${_pair})
    list(GET _pair 0 _feature)
    list(GET _pair 1 _macro)
    if(_macros MATCHES "#define ${_macro} ")
        list(APPEND _required "\"${_feature}\"")
    endif()
endforeach()
list(JOIN _required ", " _required)

set(_backends "\"cpu\"")
foreach(_backend METAL CUDA VULKAN BLAS)
    if(WHISPERQ_${_backend})
        string(TOLOWER ${_backend} _lower)
        string(APPEND _backends ", \"${_lower}\"")
    endif()
endforeach()

set(_whisper_cpp_version "unknown (WHISPERQ_WHISPER_CPP_DIR)")
if(NOT WHISPERQ_WHISPER_CPP_DIR)
    file(READ ${CMAKE_CURRENT_SOURCE_DIR}/third_party/whisper.cpp/pin.json _pin)
    string(JSON _whisper_cpp_version GET "${_pin}" whisper_cpp_version)
endif()
target_compile_definitions(whisperq_upstream INTERFACE WHISPER_VERSION="${_whisper_cpp_version}")

file(CONFIGURE OUTPUT ${CMAKE_CURRENT_BINARY_DIR}/_build.json CONTENT [[{
  "version": "@WHISPERQ_VERSION@",
  "whisper_cpp": "@_whisper_cpp_version@",
  "compiler": "@CMAKE_CXX_COMPILER_ID@ @CMAKE_CXX_COMPILER_VERSION@",
  "native": "@WHISPERQ_NATIVE@",
  "sanitize": "@WHISPERQ_SANITIZE@",
  "ggml_backends": [@_backends@],
  "ggml_requires": [@_required@]
}
]] @ONLY)
