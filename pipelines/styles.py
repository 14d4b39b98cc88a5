"""The eight styles the service starts with; an administrator's edits live in the database, not here.

Prompts are short noun phrases: SDXL's text encoders read 75 tokens and weigh the first ones most, and each
digit of "85mm" or "f/4" is one of them. They say nothing about who the person is; that comes from the
selfie. The numbers are argued from published settings and not yet measured on these styles.
"""

from dataclasses import dataclass
from functools import partial
from typing import Final

from pipelines.presets import StylePreset

_NEVER: Final = (
    "painting, drawing, cartoon, anime, 3d render, plastic skin, airbrushed, deformed, asymmetric eyes, "
    "extra fingers, hands, text, watermark, logo, lowres, blurry face, oversaturated, "
)

# InstantID's authors publish 0.8 for both scales and tell users with burnt skin to lower them; IdentityNet
# goes to 0.65 where guidance_scale is 10 or more, because both pull on contrast. Guidance of 7 to 12 holds up
# by adaptive projection (Sadat et al. 2024, arXiv 2410.02416) in the middle noise levels (Kynkäänniemi et al.
# 2024, arXiv 2404.07724). InstantID was trained without ever dropping the face (Wang et al. 2024, arXiv
# 2401.07519), so a face of zeros is a strange face to it; noise in its place is reported to burn less. The
# mask leaves clothes and backdrop to the words. IdentityNet ends at 0.9 of the steps to free skin texture.
_photograph = partial(
    StylePreset,
    scheduler="dpmpp_2m_karras",
    ip_adapter_scale=0.8,
    controlnet_conditioning_scale=0.8,
    guidance_method="apg_interval",
    negative_identity="noise",
    control_guidance_end=0.9,
    is_face_masked=True,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class BuiltinStyle:
    """A style as it is first stored: its preset, and what a customer reads about it."""

    preset: StylePreset
    name: str
    summary: str


BUILTIN: Final[tuple[BuiltinStyle, ...]] = (
    BuiltinStyle(
        name="Corporate",
        summary="A tailored suit before a calm grey-blue studio backdrop, for company pages and profiles.",
        preset=_photograph(
            slug="corporate",
            subject="professional headshot photograph of a person, natural skin texture",
            wardrobe="tailored navy suit, crisp white shirt",
            setting="grey-blue studio backdrop",
            lighting="softbox key light, gentle fill, hair light",
            lens="85mm lens, f/4, sharp eyes",
            mood="confident friendly expression",
            composition="head and shoulders, facing camera",
            negative_prompt=_NEVER + "busy background, casual clothes, harsh shadows",
            guidance_scale=8.0,
            num_inference_steps=30,
            framing="head_and_shoulders",
        ),
    ),
    BuiltinStyle(
        name="Executive",
        summary="Dark wood, warm lamps and a fine suit, for boards, speakers and annual reports.",
        preset=_photograph(
            slug="executive",
            subject="editorial portrait photograph of a person, natural skin, fine pores",
            wardrobe="charcoal wool suit",
            setting="dark wood panelled office, warm lamps",
            lighting="window key light, warm rim light",
            lens="105mm lens, shallow depth of field",
            mood="calm composed authority",
            composition="chest-up portrait, shoulders slightly turned",
            negative_prompt=_NEVER + "bright white background, casual clothes, flat lighting, clutter",
            guidance_scale=10.0,
            num_inference_steps=34,
            controlnet_conditioning_scale=0.65,
            control_guidance_end=0.85,  # pores are the look, and 10 hardens what IdentityNet still holds
            framing="chest",
        ),
    ),
    BuiltinStyle(
        name="Creative",
        summary="Painted colour and expressive light, for portfolios, studios and agencies.",
        preset=_photograph(
            slug="creative",
            subject="studio portrait photograph of a person, real skin texture",
            wardrobe="textured knit in one bold colour",
            setting="hand painted backdrop, teal and coral gradient",
            lighting="beauty dish, coloured gel on the background",
            lens="70mm lens, crisp catchlights",
            mood="lively curious expression",
            composition="close portrait, centred, clean negative space",
            negative_prompt=_NEVER + "business suit, office, dull colours, coloured skin, face paint",
            guidance_scale=11.0,
            num_inference_steps=36,
            controlnet_conditioning_scale=0.65,
            control_guidance_end=0.85,  # the largest face under the highest guidance: skin shows most here
            framing="close",
        ),
    ),
    BuiltinStyle(
        name="Tech",
        summary="A modern glass office and cool daylight, for product teams and founders.",
        preset=_photograph(
            slug="tech",
            subject="professional portrait photograph of a person, natural skin texture",
            wardrobe="dark crew-neck sweater, minimal jacket",
            setting="modern glass office, soft cool lights",
            lighting="diffuse window daylight, blue rim light",
            lens="50mm lens, shallow depth of field",
            mood="approachable focused expression",
            composition="head and shoulders, relaxed posture",
            negative_prompt=_NEVER + "neon face, screens with text, tie, cluttered desk, dark room",
            guidance_scale=9.0,
            num_inference_steps=30,
            framing="head_and_shoulders",
        ),
    ),
    BuiltinStyle(
        name="Academic",
        summary="Quiet library shelves and reading light, for faculty pages, authors and conferences.",
        preset=_photograph(
            slug="academic",
            subject="portrait photograph of a person, detailed skin, natural colours",
            wardrobe="tweed blazer over a plain shirt",
            setting="university library, wooden book shelves out of focus",
            lighting="soft side window light, warm fill",
            lens="85mm lens, soft background",
            mood="thoughtful warm expression",
            composition="chest-up portrait, facing camera",
            negative_prompt=_NEVER + "graduation gown, readable book titles, harsh flash, sports clothes",
            guidance_scale=8.5,
            num_inference_steps=32,
            control_guidance_end=1.0,  # a small face has few latents to settle in; 8.5 does not burn it
            framing="chest",
        ),
    ),
    BuiltinStyle(
        name="Healthcare",
        summary="Bright, clean and reassuring, for clinics, practices and care teams.",
        preset=_photograph(
            slug="healthcare",
            subject="professional headshot photograph of a person, natural skin texture",
            wardrobe="white coat over a light blue shirt",
            setting="bright modern clinic, white walls, large window",
            lighting="even daylight, soft shadows",
            lens="85mm lens, sharp focus on the eyes",
            mood="kind reassuring smile",
            composition="head and shoulders, facing camera",
            negative_prompt=_NEVER + "blood, surgery, mask, medical devices on the face, dark background",
            guidance_scale=7.5,
            num_inference_steps=28,
            control_guidance_end=0.95,  # even light models no features: the key points do it for longer
            framing="head_and_shoulders",
        ),
    ),
    BuiltinStyle(
        name="Casual",
        summary="Warm brick, soft lamps and an easy smile, for personal pages and social profiles.",
        preset=_photograph(
            slug="casual",
            subject="candid portrait photograph of a person, real skin texture, natural hair",
            wardrobe="soft cotton shirt, open collar",
            setting="warm cafe interior, brick wall out of focus",
            lighting="soft window light, warm practical lamps",
            lens="50mm lens, creamy bokeh",
            mood="relaxed genuine smile",
            composition="close portrait, slightly off centre",
            negative_prompt=_NEVER + "suit, tie, studio backdrop, stiff pose, heavy makeup",
            guidance_scale=7.0,
            num_inference_steps=28,
            control_guidance_end=0.85,  # a candid close-up lives on its skin, and a large face settles early
            framing="close",
        ),
    ),
    BuiltinStyle(
        name="Outdoor",
        summary="Green leaves and low golden sun, for a fresh and natural portrait.",
        preset=_photograph(
            slug="outdoor",
            subject="outdoor portrait photograph of a person, natural skin, fine hair detail",
            wardrobe="light jacket, earth tones",
            setting="park with green foliage out of focus",
            lighting="golden hour back light, soft reflector fill",
            lens="135mm lens, round bokeh",
            mood="fresh open expression",
            composition="chest-up portrait, eye level",
            negative_prompt=_NEVER + "indoor, studio, harsh midday sun, squinting, snow, crowd",
            guidance_scale=10.5,
            num_inference_steps=34,
            controlnet_conditioning_scale=0.65,
            control_guidance_end=0.95,  # a small face in its own shadow; free at last, as 10.5 hardens skin
            framing="chest",
        ),
    ),
)
